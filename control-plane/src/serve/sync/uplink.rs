//! What a subscriber reports, into the pools.
//!
//! A report names its request and leg, and not every one its endpoint, so the scheduler that each
//! open leg belongs to is remembered here. What is odd (an unknown event, an endpoint that is gone)
//! is logged once per stream and ignored: a newer proxy must not lose its subscription over a
//! report that this replica does not support.

use std::{collections::HashMap, sync::Arc, time::Duration};

use hermes_core::{
    ledger::{LegId, LegKey, LegPhase, ListedLeg, ProxyId, RequestId, RequestKey},
    refusals::SecondOpinion,
    scheduler::EngineUsage,
    snapshot::EndpointId,
    stored_responses::ResponseKey,
};
use hermes_proto::{
    convert::ReplayedHistory,
    v1::{self, report::Event},
};
use smallvec::SmallVec;

use crate::{
    metrics::{ControlPlaneMetrics, ReportEvent},
    pools::{AttemptReport, FinishReport, PoolDirectory, PoolScheduler},
};

/// Open requests of one proxy that are remembered. Beyond it a report without an endpoint asks
/// every scheduler.
const MAX_OPEN: usize = 65_536;

/// One subscriber's reports.
pub(super) struct ReportReader {
    proxy: ProxyId,
    pools: Arc<PoolDirectory>,
    open: HashMap<RequestId, LegSchedulers>,
    /// By request, the endpoints whose attempts served nothing: each was reported by itself, and
    /// does not count once more with the end of a leg. Kept until the request ends, as a leg may be
    /// reported to have failed after its end.
    blamed: HashMap<RequestId, SmallVec<[EndpointId; 2]>>,
    /// Whether something odd was logged already.
    has_logged: bool,
    metrics: ControlPlaneMetrics,
}

/// The scheduler that each open leg of one request belongs to. A leg is there once.
type LegSchedulers = SmallVec<[(LegId, Arc<PoolScheduler>); 1]>;

// === ReportReader ===

impl ReportReader {
    pub(super) fn new(
        proxy: ProxyId,
        pools: Arc<PoolDirectory>,
        metrics: ControlPlaneMetrics,
    ) -> Self {
        Self {
            proxy,
            pools,
            open: HashMap::new(),
            blamed: HashMap::new(),
            has_logged: false,
            metrics,
        }
    }

    pub(super) fn reports(&mut self, reports: v1::Reports) {
        for v1::Report {
            request,
            leg,
            event,
        } in reports.reports
        {
            let event = match (self.leg(request, leg), event) {
                (Some(leg), Some(event)) => self.report(leg, event),
                (None, _) => {
                    self.odd("a report of a leg beyond those that a request may have");
                    ReportEvent::Unknown
                }
                (_, None) => {
                    self.odd("a report without a known event");
                    ReportEvent::Unknown
                }
            };
            self.metrics.streams.reports[event].inc();
        }
    }

    fn report(&mut self, leg: LegKey, event: Event) -> ReportEvent {
        match event {
            Event::Started(started) => self.started(leg, started),
            Event::FirstByte(v1::FirstByte { ttft_us }) => self.first_byte(leg, ttft_us),
            Event::AttemptFailed(failed) => self.attempt_failed(leg, failed),
            Event::Finished(finished) => self.finished(leg, &finished),
        }
    }

    /// Every open leg of the proxy: the previous set is replaced.
    pub(super) fn open(&mut self, open: v1::OpenRequests) {
        self.open.clear();
        self.blamed.clear();
        let mut legs = Vec::with_capacity(open.requests.len());
        for v1::OpenRequest {
            request,
            leg,
            endpoint,
            uncached_tokens,
            answered,
        } in open.requests
        {
            let endpoint = EndpointId(endpoint);
            let Some(leg) = self.leg(request, leg) else {
                self.odd("an open leg beyond those that a request may have");
                continue;
            };
            if let Some(scheduler) = self.pools.of(endpoint) {
                self.remember(leg, scheduler);
            }
            legs.push(ListedLeg {
                request: leg.request.request,
                leg: leg.leg,
                endpoint,
                tokens: tokens(uncached_tokens),
                phase: if answered {
                    LegPhase::Answering
                } else {
                    LegPhase::Sent
                },
            });
        }
        self.pools.replace_proxy(self.proxy, legs);
    }

    /// Logs what is odd, once.
    pub(super) fn odd(&mut self, reason: &'static str) {
        if !std::mem::replace(&mut self.has_logged, true) {
            tracing::warn!(
                proxy = self.proxy.0,
                reason,
                "report ignored; further ones on this stream are not logged"
            );
        }
    }

    fn started(&mut self, leg: LegKey, started: v1::Started) -> ReportEvent {
        let v1::Started {
            endpoint,
            uncached_tokens,
            non_streaming,
        } = started;
        let endpoint = EndpointId(endpoint);
        if let Some(scheduler) = self.scheduler_of(endpoint) {
            let now = self.pools.now();
            if let Some(left) = self.scheduler(leg)
                && !Arc::ptr_eq(left, &scheduler)
            {
                // It went on in another pool.
                left.leg_left(leg, now);
            }
            scheduler.started(leg, endpoint, tokens(uncached_tokens), non_streaming, now);
            self.remember(leg, scheduler);
        }
        ReportEvent::Started
    }

    fn first_byte(&mut self, leg: LegKey, ttft_us: u64) -> ReportEvent {
        let ttft = Duration::from_micros(ttft_us);
        match self.scheduler(leg) {
            Some(scheduler) => scheduler.first_byte(leg, ttft, self.pools.now()),
            None if self.is_full() => self.pools.first_byte(leg, ttft),
            None => {}
        }
        ReportEvent::FirstByte
    }

    fn attempt_failed(&mut self, leg: LegKey, failed: v1::AttemptFailed) -> ReportEvent {
        let endpoint = EndpointId(failed.endpoint);
        if let Some(scheduler) = self.scheduler_of(endpoint) {
            let report = AttemptReport {
                endpoint,
                outcome: failed.outcome(),
                answer: failed.answer(),
                retry_after: failed.retry_after_ms.map(Duration::from_millis),
                opinion: match failed.second_opinion() {
                    v1::SecondOpinion::Unspecified => SecondOpinion::None,
                    v1::SecondOpinion::Unavailable => SecondOpinion::Unavailable,
                    v1::SecondOpinion::Contradicted => SecondOpinion::Contradicted,
                    v1::SecondOpinion::Confirmed => SecondOpinion::Confirmed,
                },
            };
            scheduler.attempt_failed(report, self.pools.now());
            self.blame(leg.request.request, endpoint);
        }
        ReportEvent::AttemptFailed
    }

    fn finished(&mut self, leg: LegKey, finished: &v1::Finished) -> ReportEvent {
        let endpoint = finished.endpoint.map(EndpointId);
        if let (Some(response), Some(endpoint)) = (finished.stored_response, endpoint) {
            self.pools
                .remember_response(ResponseKey(response), endpoint);
        }
        let (now, ended_legs) = (self.pools.now(), self.forget(leg));
        let blamed = self.blamed.get(&leg.request.request);
        let is_blamed = blamed
            .is_some_and(|blamed| endpoint.is_some_and(|endpoint| blamed.contains(&endpoint)));
        if leg.leg == LegId::MAIN {
            self.blamed.remove(&leg.request.request);
        }
        let own = ended_legs.iter().find(|(ended, _)| *ended == leg.leg);
        let own = own.map(|(_, scheduler)| Arc::clone(scheduler));
        let Some(own) = own.or_else(|| self.pools.of(endpoint?)) else {
            if leg.leg == LegId::MAIN {
                self.pools.finished_unsent(leg.request);
            }
            return ReportEvent::Finished;
        };
        let finish = FinishReport {
            endpoint,
            outcome: finished.outcome(),
            answer: finished.answer(),
            is_blamed,
            ended: ended(finished),
            ttft: finished.ttft_us.map(Duration::from_micros),
        };
        own.finished(leg, finish, now);
        for (ended, scheduler) in ended_legs {
            // In its own pool the request's end has released all legs.
            if !Arc::ptr_eq(&scheduler, &own) {
                scheduler.leg_left(leg.request.leg(ended), now);
            }
        }
        ReportEvent::Finished
    }

    /// Notes that an endpoint's part in a failure was reported.
    fn blame(&mut self, request: RequestId, endpoint: EndpointId) {
        if self.blamed.len() >= MAX_OPEN && !self.blamed.contains_key(&request) {
            return;
        }
        let blamed = self.blamed.entry(request).or_default();
        if !blamed.contains(&endpoint) {
            blamed.push(endpoint);
        }
    }

    /// Requests that the proxy routed before this replica owned the pool.
    pub(super) fn history(&mut self, history: v1::RoutingHistory) {
        match ReplayedHistory::try_from(history) {
            Ok(ReplayedHistory {
                pool,
                block_bytes,
                requests,
            }) => {
                if let Some(pool_handle) = self.pools.pool(&pool) {
                    pool_handle.scheduler.replay_history(&requests, block_bytes);
                }
            }
            Err(invalid) => {
                tracing::debug!(proxy = self.proxy.0, %invalid, "invalid routing history");
                self.odd("an invalid routing history");
            }
        }
    }

    fn scheduler_of(&mut self, endpoint: EndpointId) -> Option<Arc<PoolScheduler>> {
        let scheduler = self.pools.of(endpoint);
        if scheduler.is_none() {
            tracing::debug!(proxy = self.proxy.0, %endpoint, "report about an endpoint that is gone");
        }
        scheduler
    }

    fn remember(&mut self, leg: LegKey, scheduler: Arc<PoolScheduler>) {
        let request = leg.request.request;
        if self.is_full() && !self.open.contains_key(&request) {
            return;
        }
        let legs = self.open.entry(request).or_default();
        match legs.iter_mut().find(|(known, _)| *known == leg.leg) {
            Some((_, known)) => *known = scheduler,
            None => legs.push((leg.leg, scheduler)),
        }
    }

    /// Whether there may be open requests that are not remembered.
    fn is_full(&self) -> bool {
        self.open.len() >= MAX_OPEN
    }

    /// The legs that end with this one: with the main leg, all of its request.
    fn forget(&mut self, leg: LegKey) -> LegSchedulers {
        let request = leg.request.request;
        if leg.leg == LegId::MAIN {
            return self.open.remove(&request).unwrap_or_default();
        }
        let Some(legs) = self.open.get_mut(&request) else {
            return LegSchedulers::new();
        };
        let known = legs.iter().position(|(known, _)| *known == leg.leg);
        let ended = known.map(|index| legs.swap_remove(index));
        if legs.is_empty() {
            self.open.remove(&request);
        }
        ended.into_iter().collect()
    }

    /// The scheduler that an open leg belongs to.
    fn scheduler(&self, leg: LegKey) -> Option<&Arc<PoolScheduler>> {
        let mut legs = self.open.get(&leg.request.request)?.iter();
        legs.find(|(known, _)| *known == leg.leg)
            .map(|(_, scheduler)| scheduler)
    }

    /// `None` when no request has a leg of this number.
    fn leg(&self, request: u64, leg: u32) -> Option<LegKey> {
        let request = RequestKey {
            proxy: self.proxy,
            request: RequestId(request),
        };
        Some(request.leg(LegId::new(leg)?))
    }
}

/// The usage that the engine reported for a request.
fn ended(finished: &v1::Finished) -> EngineUsage {
    let usage = finished.usage.as_ref();
    EngineUsage {
        prompt_tokens: usage
            .map(|usage| usage.prompt_tokens)
            .filter(|tokens| *tokens > 0),
        cached_tokens: usage.and_then(|usage| usage.cached_tokens),
        completion_tokens: usage.map(|usage| usage.completion_tokens),
        decoding: finished.decoding_us.map(Duration::from_micros),
    }
}

fn tokens(wire: u64) -> u32 {
    u32::try_from(wire).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
