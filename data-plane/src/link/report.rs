//! What becomes of requests, told to every control-plane replica: at once, in batches, and never lost for good.
//!
//! ```text
//!   request ──started, first byte, finished──▶ queue (bounded) ──every few ms──▶ each replica's stream
//!      └──────────▶ table of open requests (bounded by the requests in flight) ──▶ OpenRequests, when anything was lost
//! ```
//!
//! A full queue drops the report and asks for a resync: the whole table then replaces what the replicas believe, so
//! that no lost report holds a booking.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use hermes_core::{responses::ResponseKey, snapshot::EndpointId};
use hermes_proto::v1::{self, report::Event};
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Reports that may wait to be sent.
const QUEUE: usize = 16_384;

/// Open requests are spread over this many locks.
const SHARDS: usize = 16;

/// Where requests report, and what is known of the open ones.
pub(crate) struct Reporter {
    open: [Mutex<HashMap<u64, UnfinishedRequest>>; SHARDS],
    queue: mpsc::Sender<v1::Report>,
    /// Reports dropped since the start: a replica that has seen fewer resyncs needs another.
    lost: AtomicU64,
}

/// One request that was sent to an endpoint and is not over.
#[derive(Clone, Copy, Debug, PartialEq)]
struct UnfinishedRequest {
    endpoint: EndpointId,
    uncached_tokens: u64,
    answered: bool,
}

/// What a request came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestEnd {
    pub(crate) outcome: Outcome,
    pub(crate) usage: Option<v1::Usage>,
    /// From its last sending.
    pub(crate) duration: Duration,
    /// From the first byte of an answer in pieces to its last.
    pub(crate) decoding: Option<Duration>,
    /// The response that the endpoint stored.
    pub(crate) stored_response: Option<ResponseKey>,
}

/// How a request, or an attempt, ended; see the contract for what each means.
pub(crate) use hermes_proto::v1::Outcome;

impl Reporter {
    /// The reporter, and the queue that whoever sends reports drains.
    pub(crate) fn new() -> (Self, mpsc::Receiver<v1::Report>) {
        let (queue, reports) = mpsc::channel(QUEUE);
        (
            Self {
                open: Default::default(),
                queue,
                lost: AtomicU64::new(0),
            },
            reports,
        )
    }

    pub(crate) fn started(
        &self,
        request: u64,
        endpoint: EndpointId,
        uncached_tokens: u64,
        unary: bool,
    ) {
        self.shard(request).lock().insert(
            request,
            UnfinishedRequest {
                endpoint,
                uncached_tokens,
                answered: false,
            },
        );
        self.send(
            request,
            Event::Started(v1::Started {
                endpoint: endpoint.0,
                uncached_tokens,
                unary,
            }),
        );
    }

    pub(crate) fn first_byte(&self, request: u64, ttft: Duration) {
        if let Some(open) = self.shard(request).lock().get_mut(&request) {
            open.answered = true;
        }
        self.send(
            request,
            Event::FirstByte(v1::FirstByte {
                ttft_us: micros(ttft),
            }),
        );
    }

    pub(crate) fn attempt_failed(&self, request: u64, endpoint: EndpointId, outcome: Outcome) {
        self.send(
            request,
            Event::AttemptFailed(v1::AttemptFailed {
                endpoint: endpoint.0,
                outcome: outcome.into(),
            }),
        );
    }

    /// The request is over.
    pub(crate) fn finished(&self, request: u64, ended: RequestEnd) {
        let RequestEnd {
            outcome,
            usage,
            duration,
            decoding,
            stored_response,
        } = ended;
        let open = self.shard(request).lock().remove(&request);
        let endpoint = open.map(|open| open.endpoint.0);
        let finished = v1::Finished {
            endpoint,
            outcome: outcome.into(),
            usage,
            duration_us: micros(duration),
            stored_response: stored_response.map(|key| key.0),
            ttft_us: None,
            decoding_us: decoding.map(micros),
        };
        self.send(request, Event::Finished(finished));
    }

    /// Every open request: what a replica has to believe from now on.
    pub(crate) fn open_requests(&self) -> v1::OpenRequests {
        let mut requests = Vec::new();
        for shard in &self.open {
            requests.extend(shard.lock().iter().map(|(&request, open)| v1::OpenRequest {
                request,
                endpoint: open.endpoint.0,
                uncached_tokens: open.uncached_tokens,
                answered: open.answered,
            }));
        }
        v1::OpenRequests { requests }
    }

    /// How many reports were dropped so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn shard(&self, request: u64) -> &Mutex<HashMap<u64, UnfinishedRequest>> {
        &self.open[request as usize % SHARDS]
    }

    fn send(&self, request: u64, event: Event) {
        if self
            .queue
            .try_send(v1::Report {
                request,
                event: Some(event),
            })
            .is_err()
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Leaves out the beginnings of requests whose end is in the same batch: short requests are told by one report.
///
/// What the control plane would do at their start it would undo at once; the time to the first byte goes along with
/// the end.
pub(crate) fn fold(batch: &mut Vec<v1::Report>) {
    let mut over: HashMap<u64, Option<u64>> = batch
        .iter()
        .filter(|report| matches!(report.event, Some(Event::Finished(_))))
        .map(|report| (report.request, None))
        .collect();
    batch.retain_mut(|report| {
        let Some(ttft) = over.get_mut(&report.request) else {
            return true;
        };
        match &mut report.event {
            Some(Event::Started(_)) => false,
            Some(Event::FirstByte(first)) => {
                *ttft = Some(first.ttft_us);
                false
            }
            Some(Event::Finished(finished)) => {
                finished.ttft_us = *ttft;
                true
            }
            Some(Event::AttemptFailed(_)) | None => true,
        }
    });
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: EndpointId = EndpointId(7);

    #[test]
    fn an_open_request_is_listed_from_its_start_to_its_end() {
        let (reporter, mut reports) = Reporter::new();
        reporter.started(1, ENDPOINT, 100, false);
        reporter.started(2, ENDPOINT, 50, false);
        reporter.first_byte(1, Duration::from_millis(3));
        let duration = Duration::from_millis(9);
        reporter.finished(
            2,
            RequestEnd {
                outcome: Outcome::Ok,
                usage: None,
                duration,
                decoding: None,
                stored_response: None,
            },
        );
        let expected = v1::OpenRequest {
            request: 1,
            endpoint: 7,
            uncached_tokens: 100,
            answered: true,
        };
        assert_eq!(reporter.open_requests().requests, [expected]);
        let Some(Event::Finished(finished)) = std::iter::from_fn(|| reports.try_recv().ok())
            .last()
            .and_then(|r| r.event)
        else {
            panic!("the last report says that request 2 is over");
        };
        assert_eq!(finished.endpoint, Some(7));
    }

    #[test]
    fn a_request_that_began_and_ended_in_one_batch_is_told_by_one_report() {
        let (reporter, mut reports) = Reporter::new();
        let finished = |outcome| RequestEnd {
            outcome,
            usage: None,
            duration: Duration::ZERO,
            decoding: None,
            stored_response: None,
        };
        reporter.started(1, ENDPOINT, 10, false);
        reporter.started(2, ENDPOINT, 10, false);
        reporter.attempt_failed(1, ENDPOINT, Outcome::Unreachable);
        reporter.first_byte(1, Duration::from_micros(300));
        reporter.first_byte(2, Duration::from_micros(400));
        reporter.finished(1, finished(Outcome::Ok));
        let mut batch: Vec<_> = std::iter::from_fn(|| reports.try_recv().ok()).collect();
        fold(&mut batch);
        let told: Vec<(u64, &str)> = batch
            .iter()
            .map(|report| match &report.event {
                Some(Event::Started(_)) => (report.request, "started"),
                Some(Event::FirstByte(_)) => (report.request, "first byte"),
                Some(Event::AttemptFailed(_)) => (report.request, "attempt failed"),
                Some(Event::Finished(finished)) => {
                    assert_eq!(finished.ttft_us, Some(300));
                    (report.request, "finished")
                }
                None => (report.request, "nothing"),
            })
            .collect();
        assert_eq!(
            told,
            [
                (2, "started"),
                (1, "attempt failed"),
                (2, "first byte"),
                (1, "finished")
            ]
        );
    }

    #[test]
    fn a_full_queue_drops_reports_and_says_how_many() {
        let (reporter, _reports) = Reporter::new();
        for request in 0..QUEUE as u64 + 5 {
            reporter.first_byte(request, Duration::ZERO);
        }
        assert_eq!(reporter.lost(), 5);
    }
}
