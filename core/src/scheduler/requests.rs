//! The requests of one pool: those that are queued, what is needed of open ones when they move or
//! end, and the accounts of tenants.
//!
//! Reads nothing of endpoints: positions and seconds come as arguments. Invariant: the queue, the
//! metadata and the accounts are bounded.

use std::{collections::HashMap, time::Duration};

use super::{
    EvictedRequest,
    engine::OccupancyMark,
    fleet::MemoryCharge,
    lookup::CacheExpectation,
    queue::{QueuedRequest, RequestQueue},
    seconds,
    shares::FairShares,
};
use crate::{
    estimate::SentClaim,
    hash::MixBuildHasher,
    ledger::{Ledger, RequestKey},
    policy::QueueLimits,
    query::Query,
    snapshot::EndpointId,
};

/// Metadata of requests that ended without a report, kept at most.
const SLACK: usize = 1_024;

/// See the module.
#[derive(Debug)]
pub(super) struct PoolRequests {
    pub(super) queue: RequestQueue,
    shares: FairShares,
    metadata: HashMap<RequestKey, RequestMetadata, MixBuildHasher>,
}

/// The metadata of an open request, needed when it moves or ends.
#[derive(Clone, Debug)]
pub(super) struct RequestMetadata {
    pub(super) query: Query,
    /// What was expected of the cache at the booked endpoint.
    pub(super) expectation: CacheExpectation,
    /// What was claimed of it for the engine's counters; `None` once its first byte came.
    pub(super) sent: Option<SentClaim>,
    /// Of its endpoint; of a pair, the one that decodes.
    pub(super) memory: MemoryCharge,
    /// Of the endpoint of its prefill leg, if it has one: then nothing is expected of the cache
    /// where it decodes, and nothing is learned from what the engine there reports of it.
    pub(super) prefill: Option<MemoryCharge>,
    pub(super) progress: RequestProgress,
}

/// How far an open request is, for what is learned of its endpoints.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RequestProgress {
    /// Tokens that its decode endpoint takes over, of a pair.
    pub(super) moves: u32,
    /// Where its prefill leg was answered, and when.
    pub(super) prefilled: Option<(EndpointId, Duration)>,
    /// When its answer began; `None` if the answer comes as a whole.
    pub(super) answering: Option<OccupancyMark>,
}

/// What the first token of a pair's answer shows of the transfer.
#[derive(Clone, Copy, Debug)]
pub(super) struct MovedPrompt {
    /// Where its prompt was computed.
    pub(super) from: EndpointId,
    /// Tokens that its decode endpoint took over.
    pub(super) tokens: u32,
    /// From the answer of the prefill leg to the first token.
    pub(super) took: Duration,
}

/// The queue has no room for a request, and the fair share of its tenant is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueIsFull;

impl PoolRequests {
    /// None, of a pool with this number of endpoints.
    pub(super) fn new(endpoints: usize) -> Self {
        Self {
            queue: RequestQueue::new(endpoints),
            shares: FairShares::default(),
            metadata: HashMap::default(),
        }
    }

    /// Makes room in the queue for a request of this size, priority and tenant, by the eviction of
    /// at most one other. `lanes` is the number of prompts that the pool computes at once.
    ///
    /// # Errors
    /// When no eviction is fair and enough.
    pub(super) fn make_room(
        &mut self,
        query: &Query,
        limits: &QueueLimits,
        lanes: u32,
    ) -> Result<Option<EvictedRequest>, QueueIsFull> {
        let queue = &self.queue;
        if queue.has_room(limits, query.prompt_bytes) {
            return Ok(None);
        }
        let is_enough = |key: &RequestKey| queue.has_room_without(*key, limits, query.prompt_bytes);
        let sheddable = queue.shed_candidate(query.priority).filter(is_enough);
        // A request that may be shed itself takes the place of none that may not.
        let crowd = || {
            let of_crowd = queue.eviction_candidate(query.tenant)?;
            let is_below = query.priority >= 0 || queue.priority(of_crowd) <= Some(query.priority);
            is_below.then_some(of_crowd).filter(is_enough)
        };
        let key = sheddable.or_else(crowd).ok_or(QueueIsFull)?;
        self.queue.remove(key);
        Ok(Some(EvictedRequest {
            key,
            retry_after: self.retry_after(lanes),
        }))
    }

    /// Queues a request that costs least at the position `wanted`, where its prefill takes
    /// `service` seconds.
    pub(super) fn enqueue(&mut self, mut queued: QueuedRequest, service: f64, wanted: u32) {
        queued.set_service(service, &self.shares);
        self.queue.push(queued, wanted);
    }

    /// Returns a request that is checked out to the queue, as [`Self::enqueue`] does.
    pub(super) fn check_in(&mut self, mut queued: Box<QueuedRequest>, service: f64, wanted: u32) {
        queued.set_service(service, &self.shares);
        self.queue.check_in(queued, wanted);
    }

    /// An estimate of when a pool that computes `lanes` prompts at once will have drained the
    /// queue, 1 to 60 seconds.
    pub(super) fn retry_after(&self, lanes: u32) -> Duration {
        seconds((self.queue.service() / f64::from(lanes.max(1))).clamp(1.0, 60.0))
    }

    /// A request was booked, with `uncached` tokens to compute: its tenant pays for them.
    pub(super) fn booked(
        &mut self,
        key: RequestKey,
        metadata: RequestMetadata,
        uncached: u32,
        open: &Ledger,
        now: Duration,
    ) {
        self.shares.spend(metadata.query.tenant, uncached, now);
        // Requests may end without a report: their metadata is dropped when it outnumbers that of
        // open requests.
        if self.metadata.len() > 2 * open.len() + SLACK {
            self.metadata.retain(|&key, _| open.has_request(key));
        }
        self.metadata.insert(key, metadata);
    }

    /// The metadata of an open request.
    pub(super) fn metadata(&self, key: RequestKey) -> Option<&RequestMetadata> {
        self.metadata.get(&key)
    }

    /// A request moved to an endpoint for which nothing was expected.
    pub(super) fn moved(&mut self, key: RequestKey, memory: MemoryCharge) {
        if let Some(metadata) = self.metadata.get_mut(&key) {
            metadata.expectation = CacheExpectation::default();
            metadata.sent = None;
            metadata.memory = memory;
        }
    }

    /// The prefill leg of a request that was booked as a pair moved to an endpoint, with this
    /// charge.
    pub(super) fn prefill_moved(&mut self, key: RequestKey, memory: MemoryCharge) {
        if let Some(metadata) = self.metadata.get_mut(&key)
            && let Some(charge) = &mut metadata.prefill
        {
            *charge = memory;
            metadata.progress.prefilled = None;
        }
    }

    /// The prefill leg of a request that was booked as a pair was answered by this endpoint.
    pub(super) fn prefilled(&mut self, key: RequestKey, endpoint: EndpointId, now: Duration) {
        if let Some(metadata) = self.metadata.get_mut(&key) {
            metadata.progress.prefilled = Some((endpoint, now));
        }
    }

    /// The answer of a request begins. Returns what was taken over for it, if that shows.
    pub(super) fn answering(
        &mut self,
        key: RequestKey,
        mark: OccupancyMark,
        now: Duration,
    ) -> Option<MovedPrompt> {
        let metadata = self.metadata.get_mut(&key)?;
        if metadata.query.non_streaming {
            return None;
        }
        let progress = &mut metadata.progress;
        progress.answering = Some(mark);
        metadata.prefill?;
        let (from, prefilled) = progress.prefilled?;
        Some(MovedPrompt {
            from,
            tokens: progress.moves,
            took: now.saturating_sub(prefilled),
        })
    }

    /// What was claimed of an open request for the engine's counters, the first time.
    pub(super) fn take_claim(&mut self, key: RequestKey) -> Option<SentClaim> {
        self.metadata.get_mut(&key)?.sent.take()
    }

    /// An open request ended.
    pub(super) fn ended(&mut self, key: RequestKey) -> Option<RequestMetadata> {
        self.metadata.remove(&key)
    }

    /// Open requests with metadata.
    #[cfg(test)]
    pub(super) fn metadata_len(&self) -> usize {
        self.metadata.len()
    }
}
