//! Reports of requests to every control-plane replica: batched, and repaired after a loss.
//!
//! ```text
//!   request ──started, first byte, finished──▶ queue (bounded) ──every few ms──▶ each replica's stream
//!      └──────────▶ table of open requests (bounded by the requests in flight) ──▶ OpenRequests, after a drop
//! ```
//!
//! A full queue drops the report and causes a resync: the table of open requests then replaces the
//! replicas' state, so that a dropped report cannot leave a booking behind.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use hermes_core::{snapshot::EndpointId, stored_responses::ResponseKey};
use hermes_proto::v1::{self, report::Event};
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Capacity of the queue of reports.
const QUEUE: usize = 16_384;

/// Number of locks that the table of open requests is divided over.
const SHARDS: usize = 16;

/// The queue of reports, and the table of open requests.
pub(crate) struct Reporter {
    open: [Mutex<HashMap<u64, UnfinishedRequest>>; SHARDS],
    queue: mpsc::Sender<v1::Report>,
    /// Reports dropped since the start; an increase causes a resync.
    dropped: AtomicU64,
}

/// One request that was sent to an endpoint and has not ended.
#[derive(Clone, Copy, Debug, PartialEq)]
struct UnfinishedRequest {
    endpoint: EndpointId,
    uncached_tokens: u64,
    answered: bool,
}

/// The end of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestEnd {
    /// The endpoint of the relayed answer, or of the last attempt.
    pub(crate) endpoint: Option<EndpointId>,
    pub(crate) outcome: ReportedOutcome,
    pub(crate) usage: Option<v1::Usage>,
    /// Since it was sent to its last endpoint.
    pub(crate) duration: Duration,
    /// From the first byte of a streamed answer to its last.
    pub(crate) decoding: Option<Duration>,
    /// The response that the endpoint stored.
    pub(crate) stored_response: Option<ResponseKey>,
}

/// The outcome of a request or an attempt; the contract defines each.
pub(crate) use hermes_proto::v1::RequestOutcome as ReportedOutcome;

impl Reporter {
    /// The reporter, and the queue of its reports.
    pub(crate) fn new() -> (Self, mpsc::Receiver<v1::Report>) {
        let (queue, reports) = mpsc::channel(QUEUE);
        (
            Self {
                open: Default::default(),
                queue,
                dropped: AtomicU64::new(0),
            },
            reports,
        )
    }

    pub(crate) fn started(
        &self,
        request: u64,
        endpoint: EndpointId,
        uncached_tokens: u64,
        non_streaming: bool,
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
                non_streaming,
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

    pub(crate) fn attempt_failed(
        &self,
        request: u64,
        endpoint: EndpointId,
        outcome: ReportedOutcome,
    ) {
        self.send(
            request,
            Event::AttemptFailed(v1::AttemptFailed {
                endpoint: endpoint.0,
                outcome: outcome.into(),
            }),
        );
    }

    /// The request has ended.
    pub(crate) fn finished(&self, request: u64, ended: RequestEnd) {
        let RequestEnd {
            endpoint,
            outcome,
            usage,
            duration,
            decoding,
            stored_response,
        } = ended;
        self.shard(request).lock().remove(&request);
        let finished = v1::Finished {
            endpoint: endpoint.map(|endpoint| endpoint.0),
            outcome: outcome.into(),
            usage,
            duration_us: micros(duration),
            stored_response: stored_response.map(|key| key.0),
            ttft_us: None,
            decoding_us: decoding.map(micros),
        };
        self.send(request, Event::Finished(finished));
    }

    /// Every open request, for a resync.
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

    /// Number of reports dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
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
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Removes the start of requests whose end is in the same batch: a short request is reported by one
/// message.
///
/// The control plane would add and remove their bookings at once. The time to the first byte is
/// moved into the end.
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
                endpoint: Some(ENDPOINT),
                outcome: ReportedOutcome::Ok,
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
    fn a_request_that_begins_and_ends_in_one_batch_is_one_report() {
        let (reporter, mut reports) = Reporter::new();
        let finished = |outcome| RequestEnd {
            endpoint: Some(ENDPOINT),
            outcome,
            usage: None,
            duration: Duration::ZERO,
            decoding: None,
            stored_response: None,
        };
        reporter.started(1, ENDPOINT, 10, false);
        reporter.started(2, ENDPOINT, 10, false);
        reporter.attempt_failed(1, ENDPOINT, ReportedOutcome::Unreachable);
        reporter.first_byte(1, Duration::from_micros(300));
        reporter.first_byte(2, Duration::from_micros(400));
        reporter.finished(1, finished(ReportedOutcome::Ok));
        let mut batch: Vec<_> = std::iter::from_fn(|| reports.try_recv().ok()).collect();
        fold(&mut batch);
        let reports: Vec<(u64, &str)> = batch
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
            reports,
            [
                (2, "started"),
                (1, "attempt failed"),
                (2, "first byte"),
                (1, "finished")
            ]
        );
    }

    #[test]
    fn a_full_queue_drops_reports_and_counts_them() {
        let (reporter, _reports) = Reporter::new();
        for request in 0..QUEUE as u64 + 5 {
            reporter.first_byte(request, Duration::ZERO);
        }
        assert_eq!(reporter.dropped(), 5);
    }
}
