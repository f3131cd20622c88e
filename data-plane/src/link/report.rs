//! Reports of requests to every control-plane replica: batched, and repaired after a loss.
//!
//! A report is about one leg of a request; the end of its main leg is the end of the request.
//!
//! ```text
//!   leg ──────started, first byte, finished──▶ queue (bounded) ──every few ms──▶ each replica's stream
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

use hermes_core::{
    ledger::LegId, refusals::SecondOpinion, snapshot::EndpointId, stored_responses::ResponseKey,
};
use hermes_proto::v1::{self, report::Event};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::mpsc;

/// Capacity of the queue of reports.
const QUEUE: usize = 16_384;

/// Number of locks that the table of open requests is divided over.
const SHARDS: usize = 16;

/// The queue of reports, and the table of open requests.
pub(crate) struct Reporter {
    open: [Mutex<HashMap<u64, UnfinishedLegs>>; SHARDS],
    queue: mpsc::Sender<v1::Report>,
    /// Reports dropped since the start; an increase causes a resync.
    dropped: AtomicU64,
}

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ReportedLeg {
    /// The request's id in this run of the proxy.
    pub(crate) request: u64,
    pub(crate) leg: LegId,
}

/// The legs of one request that have not ended, each once.
type UnfinishedLegs = SmallVec<[UnfinishedLeg; 1]>;

/// A leg that was sent to an endpoint and has not ended.
#[derive(Clone, Copy, Debug, PartialEq)]
struct UnfinishedLeg {
    leg: LegId,
    endpoint: EndpointId,
    uncached_tokens: u64,
    answered: bool,
}

/// The end of a leg.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LegEnd {
    /// The endpoint of the relayed answer, or of the last attempt.
    pub(crate) endpoint: Option<EndpointId>,
    pub(crate) outcome: ReportedOutcome,
    /// What the answer is, if one came.
    pub(crate) answer: Option<ReportedAnswer>,
    pub(crate) usage: Option<v1::Usage>,
    /// Since it was sent to its last endpoint.
    pub(crate) duration: Duration,
    /// From the first byte of a streamed answer to its last.
    pub(crate) decoding: Option<Duration>,
    /// The response that the endpoint stored.
    pub(crate) stored_response: Option<ResponseKey>,
}

/// An attempt that served nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailedAttempt {
    pub(crate) outcome: ReportedOutcome,
    /// What came instead of tokens, if anything.
    pub(crate) answer: Option<ReportedAnswer>,
    /// How long an overloaded endpoint asked to be left alone.
    pub(crate) retry_after: Option<Duration>,
    /// What came of the same request elsewhere, if it was refused.
    pub(crate) opinion: SecondOpinion,
}

/// The class of an answer; the contract defines each.
pub(crate) use hermes_proto::v1::AnswerClass as ReportedAnswer;

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

    /// The leg was sent to this endpoint, perhaps again.
    pub(crate) fn started(
        &self,
        of: ReportedLeg,
        endpoint: EndpointId,
        uncached_tokens: u64,
        non_streaming: bool,
    ) {
        let unfinished = UnfinishedLeg {
            leg: of.leg,
            endpoint,
            uncached_tokens,
            answered: false,
        };
        {
            let mut open = self.shard(of.request).lock();
            let legs = open.entry(of.request).or_default();
            match legs.iter_mut().find(|known| known.leg == of.leg) {
                Some(known) => *known = unfinished,
                None => legs.push(unfinished),
            }
        }
        self.send(
            of,
            Event::Started(v1::Started {
                endpoint: endpoint.0,
                uncached_tokens,
                non_streaming,
            }),
        );
    }

    pub(crate) fn first_byte(&self, of: ReportedLeg, ttft: Duration) {
        if let Some(legs) = self.shard(of.request).lock().get_mut(&of.request) {
            let known = legs.iter_mut().find(|known| known.leg == of.leg);
            known.into_iter().for_each(|known| known.answered = true);
        }
        self.send(
            of,
            Event::FirstByte(v1::FirstByte {
                ttft_us: micros(ttft),
            }),
        );
    }

    pub(crate) fn attempt_failed(
        &self,
        of: ReportedLeg,
        endpoint: EndpointId,
        failed: FailedAttempt,
    ) {
        let FailedAttempt {
            outcome,
            answer,
            retry_after,
            opinion,
        } = failed;
        let second_opinion = match opinion {
            SecondOpinion::None => v1::SecondOpinion::Unspecified,
            SecondOpinion::Unavailable => v1::SecondOpinion::Unavailable,
            SecondOpinion::Contradicted => v1::SecondOpinion::Contradicted,
            SecondOpinion::Confirmed => v1::SecondOpinion::Confirmed,
        };
        self.send(
            of,
            Event::AttemptFailed(v1::AttemptFailed {
                endpoint: endpoint.0,
                outcome: outcome.into(),
                answer: answer.unwrap_or_default().into(),
                retry_after_ms: retry_after.map(|wait| micros(wait) / 1_000),
                second_opinion: second_opinion.into(),
            }),
        );
    }

    /// The leg has ended; with the main leg the request has, and all its legs.
    pub(crate) fn finished(&self, of: ReportedLeg, ended: LegEnd) {
        let LegEnd {
            endpoint,
            outcome,
            answer,
            usage,
            duration,
            decoding,
            stored_response,
        } = ended;
        self.forget(of);
        let finished = v1::Finished {
            endpoint: endpoint.map(|endpoint| endpoint.0),
            outcome: outcome.into(),
            usage,
            duration_us: micros(duration),
            stored_response: stored_response.map(|key| key.0),
            ttft_us: None,
            decoding_us: decoding.map(micros),
            answer: answer.unwrap_or_default().into(),
        };
        self.send(of, Event::Finished(finished));
    }

    /// Every open leg, for a resync.
    pub(crate) fn open_requests(&self) -> v1::OpenRequests {
        let mut requests = Vec::new();
        for shard in &self.open {
            for (&request, legs) in shard.lock().iter() {
                requests.extend(legs.iter().map(|open| v1::OpenRequest {
                    request,
                    leg: open.leg.number(),
                    endpoint: open.endpoint.0,
                    uncached_tokens: open.uncached_tokens,
                    answered: open.answered,
                }));
            }
        }
        v1::OpenRequests { requests }
    }

    /// Number of reports dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn forget(&self, of: ReportedLeg) {
        let mut open = self.shard(of.request).lock();
        if let Some(legs) = open.get_mut(&of.request) {
            legs.retain(|known| of.leg != LegId::MAIN && known.leg != of.leg);
            if legs.is_empty() {
                open.remove(&of.request);
            }
        }
    }

    fn shard(&self, request: u64) -> &Mutex<HashMap<u64, UnfinishedLegs>> {
        &self.open[request as usize % SHARDS]
    }

    fn send(&self, of: ReportedLeg, event: Event) {
        if self
            .queue
            .try_send(v1::Report {
                request: of.request,
                leg: of.leg.number(),
                event: Some(event),
            })
            .is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Removes the start of legs whose end follows in the same batch: a short leg is reported by one
/// message.
///
/// The control plane would add and remove their bookings at once. The time to the first byte is
/// moved into the end.
pub(crate) fn fold(batch: &mut Vec<v1::Report>) {
    let mut ends: HashMap<(u64, u32), FoldedLeg> = HashMap::new();
    for report in batch.iter() {
        if matches!(report.event, Some(Event::Finished(_))) {
            ends.entry((report.request, report.leg)).or_default().ends += 1;
        }
    }
    batch.retain_mut(|report| {
        let folded = ends.get_mut(&(report.request, report.leg));
        let Some(folded) = folded.filter(|folded| folded.ends > 0) else {
            return true;
        };
        match &mut report.event {
            Some(Event::Started(_)) => false,
            Some(Event::FirstByte(first)) => {
                folded.ttft_us = Some(first.ttft_us);
                false
            }
            Some(Event::Finished(finished)) => {
                finished.ttft_us = folded.ttft_us.take();
                folded.ends -= 1;
                true
            }
            Some(Event::AttemptFailed(_)) | None => true,
        }
    });
}

/// What is known of a leg while its reports in a batch are read.
#[derive(Default)]
struct FoldedLeg {
    /// Ends that follow. A leg may end and start again.
    ends: u32,
    ttft_us: Option<u64>,
}

impl FailedAttempt {
    /// One of which nothing else is known.
    pub(crate) const fn of(outcome: ReportedOutcome) -> Self {
        Self {
            outcome,
            answer: None,
            retry_after: None,
            opinion: SecondOpinion::None,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
