//! Faults on demand: what goes wrong, for how many requests, and where in a request it strikes.
//!
//! Each fault has a place; a place has at most one fault, and setting another one there replaces
//! it. Unless said otherwise, faults strike inference requests only, so that health, models and
//! metrics stay truthful.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::transport::port::Port;

/// One way in which an engine misbehaves. In JSON an object whose `kind` is the name in snake case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// The port refuses connections; open ones close after their current request. Not limited by a
    /// number of requests, and only [`Faults::clear`] in the same process ends it: over HTTP
    /// nothing reaches the engine any more.
    RefuseConnections,
    /// The connection is reset (RST) when the request has been read, before any byte of an answer.
    ResetBeforeHeaders,
    /// The connection is closed (FIN) when the request has been read, before any byte of an answer.
    CloseBeforeHeaders,
    /// The request is read and never answered.
    StallBeforeHeaders,
    /// The request is answered with this status, and a `Retry-After` in seconds if given.
    Status {
        /// The status, such as 429, 500 or 503.
        code: u16,
        /// The value of `Retry-After`, in seconds.
        #[serde(default)]
        retry_after: Option<u32>,
    },
    /// A stream sends nothing any more after this many tokens, and stays open.
    StallMidStream {
        /// Tokens sent before it stalls; 0 stalls after the response head.
        after_tokens: u32,
    },
    /// A stream ends after this many tokens without its final chunk.
    DieMidStream {
        /// Tokens sent before it dies.
        after_tokens: u32,
        /// Whether the connection is reset (RST) rather than closed (FIN).
        #[serde(default)]
        reset: bool,
    },
    /// Each step takes this many times as long.
    Slow {
        /// 1 is as configured, 2 is half as fast.
        factor: f64,
    },
    /// `/health` and `/ping` answer 503.
    Unhealthy,
    /// `/metrics` answers with this status.
    MetricsStatus {
        /// The status.
        code: u16,
    },
    /// `/metrics` answers 200 with bytes that are no exposition.
    MetricsGarbage,
    /// `/metrics` is never answered.
    MetricsHang,
    /// `/metrics` reports false values: each sample of these metrics, named as in the exposition,
    /// has the value given here.
    MetricsValues {
        /// Values by full sample name, such as `vllm:num_requests_waiting`.
        values: BTreeMap<String, f64>,
    },
    /// A batch of KV events is not published; a replay has it. Counted in batches, as are the
    /// others of KV events.
    KvEventsDrop,
    /// A batch of KV events is published as bytes that are none.
    KvEventsGarbage,
    /// KV events omit blocks that were evicted.
    KvEventsHideRemovals,
    /// All connections to the publisher of KV events are closed with the next batch.
    KvEventsDisconnect,
    /// The publisher of KV events sends nothing any more and keeps its connections: a host that is
    /// gone.
    KvEventsMute,
}

/// Where a fault strikes.
#[derive(Clone, Copy, Debug)]
enum Place {
    Port,
    Request,
    Stream,
    Speed,
    Health,
    Metrics,
    KvEvents,
}

const PLACES: usize = 7;

#[derive(Debug)]
struct Armed {
    fault: Fault,
    /// Requests that it still strikes; `None` is until cleared.
    left: Option<u32>,
}

/// The faults of one engine; cheap to ask while there is none.
#[derive(Debug)]
pub struct Faults {
    armed: Mutex<[Option<Armed>; PLACES]>,
    /// One bit for each place with a fault, so that a healthy request reads one number.
    mask: AtomicU8,
    port: Arc<Port>,
    refusals: Notify,
}

impl Fault {
    fn place(&self) -> Place {
        match self {
            Self::RefuseConnections => Place::Port,
            Self::ResetBeforeHeaders
            | Self::CloseBeforeHeaders
            | Self::StallBeforeHeaders
            | Self::Status { .. } => Place::Request,
            Self::StallMidStream { .. } | Self::DieMidStream { .. } => Place::Stream,
            Self::Slow { .. } => Place::Speed,
            Self::Unhealthy => Place::Health,
            Self::MetricsStatus { .. }
            | Self::MetricsGarbage
            | Self::MetricsHang
            | Self::MetricsValues { .. } => Place::Metrics,
            Self::KvEventsDrop
            | Self::KvEventsGarbage
            | Self::KvEventsHideRemovals
            | Self::KvEventsDisconnect
            | Self::KvEventsMute => Place::KvEvents,
        }
    }
}

impl Faults {
    pub(crate) fn new(port: Arc<Port>) -> Self {
        Self {
            armed: Mutex::default(),
            mask: AtomicU8::new(0),
            port,
            refusals: Notify::new(),
        }
    }

    /// Sets a fault until it is cleared or replaced.
    pub fn set(&self, fault: Fault) {
        self.arm(fault, None);
    }

    /// Sets a fault for the next `requests` requests that it can strike.
    pub fn set_for(&self, requests: u32, fault: Fault) {
        self.arm(fault, Some(requests));
    }

    /// Ends every fault; a port that refused listens again.
    pub fn clear(&self) {
        let mut armed = self.armed.lock();
        let refused = armed[Place::Port as usize].is_some();
        *armed = Default::default();
        self.mask.store(0, Ordering::Release);
        drop(armed);
        if refused && let Err(error) = self.port.open() {
            tracing::error!(%error, "the simulated engine cannot listen again");
        }
    }

    /// Whether any fault is set that may still strike.
    pub fn any(&self) -> bool {
        self.mask.load(Ordering::Acquire) != 0
    }

    /// What strikes this inference request before its headers.
    pub(crate) fn for_request(&self) -> Option<Fault> {
        self.take(Place::Request)
    }

    /// What strikes this stream.
    pub(crate) fn for_stream(&self) -> Option<Fault> {
        self.take(Place::Stream)
    }

    /// What strikes this scrape.
    pub(crate) fn for_metrics(&self) -> Option<Fault> {
        self.take(Place::Metrics)
    }

    /// What strikes this batch of KV events.
    pub(crate) fn for_kv_events(&self) -> Option<Fault> {
        self.take(Place::KvEvents)
    }

    /// Whether this health probe fails.
    pub(crate) fn for_health(&self) -> bool {
        self.take(Place::Health).is_some()
    }

    /// How many times as long a step takes now.
    pub(crate) fn slow(&self) -> f64 {
        if !self.is_armed(Place::Speed) {
            return 1.0;
        }
        match &self.armed.lock()[Place::Speed as usize] {
            Some(Armed {
                fault: Fault::Slow { factor },
                ..
            }) if factor.is_finite() => factor.max(0.0),
            _ => 1.0,
        }
    }

    /// Resolves each time the port begins to refuse.
    pub(crate) async fn refused(&self) {
        self.refusals.notified().await;
    }

    fn arm(&self, fault: Fault, left: Option<u32>) {
        let place = fault.place() as usize;
        let refuses = fault == Fault::RefuseConnections;
        if left == Some(0) {
            return;
        }
        self.armed.lock()[place] = Some(Armed { fault, left });
        self.mask.fetch_or(1 << place, Ordering::Release);
        if refuses {
            self.port.shut();
            self.refusals.notify_one();
        }
    }

    fn is_armed(&self, place: Place) -> bool {
        self.mask.load(Ordering::Acquire) & (1 << place as u8) != 0
    }

    fn take(&self, place: Place) -> Option<Fault> {
        if !self.is_armed(place) {
            return None;
        }
        let mut armed = self.armed.lock();
        let slot = &mut armed[place as usize];
        let Armed { fault, left } = slot.as_mut()?;
        let fault = fault.clone();
        if let Some(left) = left {
            *left -= 1;
            if *left == 0 {
                *slot = None;
                self.mask.fetch_and(!(1 << place as u8), Ordering::Release);
            }
        }
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn faults() -> Faults {
        let port = Port::reserve((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Faults::new(Arc::new(port))
    }

    #[tokio::test]
    async fn a_limited_fault_strikes_that_often() {
        let faults = faults();
        faults.set_for(2, Fault::ResetBeforeHeaders);
        assert_eq!(faults.for_request(), Some(Fault::ResetBeforeHeaders));
        assert_eq!(faults.for_request(), Some(Fault::ResetBeforeHeaders));
        assert_eq!(faults.for_request(), None);
        assert!(!faults.any());
    }

    #[tokio::test]
    async fn faults_at_different_places_live_side_by_side_until_cleared() {
        let faults = faults();
        faults.set(Fault::Slow { factor: 3.0 });
        faults.set(Fault::StallMidStream { after_tokens: 1 });
        faults.set(Fault::DieMidStream {
            after_tokens: 2,
            reset: true,
        });
        assert_eq!(faults.slow(), 3.0);
        assert_eq!(
            faults.for_stream(),
            Some(Fault::DieMidStream {
                after_tokens: 2,
                reset: true
            })
        );
        assert_eq!(faults.for_request(), None);
        faults.clear();
        assert_eq!((faults.slow(), faults.for_stream()), (1.0, None));
    }

    #[test]
    fn a_fault_reads_as_json_with_its_kind() {
        let fault: Fault =
            serde_json::from_str(r#"{"kind":"status","code":503,"retry_after":2}"#).unwrap();
        assert_eq!(
            fault,
            Fault::Status {
                code: 503,
                retry_after: Some(2)
            }
        );
        let fault: Fault =
            serde_json::from_str(r#"{"kind":"die_mid_stream","after_tokens":3}"#).unwrap();
        assert_eq!(
            fault,
            Fault::DieMidStream {
                after_tokens: 3,
                reset: false
            }
        );
    }
}
