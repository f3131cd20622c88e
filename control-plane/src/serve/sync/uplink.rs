//! What a subscriber reports, into the pools.
//!
//! A report names its request, and not every one its endpoint, so the scheduler that each open
//! request belongs to is remembered here. What is odd (an unknown event, an endpoint that is gone)
//! is said once per stream and ignored: a newer proxy must not lose its subscription over a word
//! that this replica does not know.

use std::{collections::HashMap, sync::Arc, time::Duration};

use hermes_core::{
    ledger::{ProxyId, RequestId, RequestKey, RequestPhase},
    scheduler::EngineUsage,
    snapshot::EndpointId,
    stored_responses::ResponseKey,
};
use hermes_proto::{
    convert::ReplayedHistory,
    v1::{self, report::Event},
};

use crate::{
    metrics::{ControlPlaneMetrics, ReportEvent},
    pools::{FinishReport, PoolDirectory, PoolScheduler},
};

/// Open requests of one proxy that are remembered. Beyond it a report without an endpoint asks
/// every scheduler.
const MAX_OPEN: usize = 65_536;

/// One subscriber's reports.
pub(super) struct ReportReader {
    proxy: ProxyId,
    pools: Arc<PoolDirectory>,
    open: HashMap<RequestId, Arc<PoolScheduler>>,
    /// Whether something odd was logged already.
    said: bool,
    metrics: ControlPlaneMetrics,
}

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
            said: false,
            metrics,
        }
    }

    pub(super) fn reports(&mut self, reports: v1::Reports) {
        for v1::Report { request, event } in reports.reports {
            let request = RequestId(request);
            let event = match event {
                Some(Event::Started(started)) => self.started(request, started),
                Some(Event::FirstByte(v1::FirstByte { ttft_us })) => {
                    self.first_byte(request, ttft_us)
                }
                Some(Event::AttemptFailed(failed)) => self.attempt_failed(failed),
                Some(Event::Finished(finished)) => self.finished(request, &finished),
                None => {
                    self.odd("a report without a known event");
                    ReportEvent::Unknown
                }
            };
            self.metrics.streams.reports[event].inc();
        }
    }

    /// Every open request of the proxy: the previous set is replaced.
    pub(super) fn open(&mut self, open: v1::OpenRequests) {
        self.open.clear();
        let mut requests = Vec::with_capacity(open.requests.len());
        for v1::OpenRequest {
            request,
            endpoint,
            uncached_tokens,
            answered,
        } in open.requests
        {
            let (request, endpoint) = (RequestId(request), EndpointId(endpoint));
            if let Some(scheduler) = self.pools.of(endpoint) {
                self.remember(request, scheduler);
            }
            let phase = if answered {
                RequestPhase::Answering
            } else {
                RequestPhase::Sent
            };
            requests.push((request, endpoint, tokens(uncached_tokens), phase));
        }
        self.pools.replace_proxy(self.proxy, requests);
    }

    /// Logs what is odd, once.
    pub(super) fn odd(&mut self, what: &'static str) {
        if !std::mem::replace(&mut self.said, true) {
            tracing::warn!(
                proxy = self.proxy.0,
                what,
                "ignored, and what is like it will be without a word"
            );
        }
    }

    fn started(&mut self, request: RequestId, started: v1::Started) -> ReportEvent {
        let v1::Started {
            endpoint,
            uncached_tokens,
            non_streaming,
        } = started;
        let endpoint = EndpointId(endpoint);
        if let Some(scheduler) = self.brain_of(endpoint) {
            scheduler.started(
                self.key(request),
                endpoint,
                tokens(uncached_tokens),
                non_streaming,
                self.pools.now(),
            );
            self.remember(request, scheduler);
        }
        ReportEvent::Started
    }

    fn first_byte(&mut self, request: RequestId, ttft_us: u64) -> ReportEvent {
        if let Some(scheduler) = self.open.get(&request) {
            scheduler.first_byte(
                self.key(request),
                Duration::from_micros(ttft_us),
                self.pools.now(),
            );
        }
        ReportEvent::FirstByte
    }

    fn attempt_failed(&mut self, failed: v1::AttemptFailed) -> ReportEvent {
        let endpoint = EndpointId(failed.endpoint);
        if let Some(scheduler) = self.brain_of(endpoint) {
            scheduler.attempt_failed(endpoint, failed.outcome(), self.pools.now());
        }
        ReportEvent::AttemptFailed
    }

    fn finished(&mut self, request: RequestId, finished: &v1::Finished) -> ReportEvent {
        let endpoint = finished.endpoint.map(EndpointId);
        if let (Some(response), Some(endpoint)) = (finished.stored_response, endpoint) {
            self.pools
                .remember_response(ResponseKey(response), endpoint);
        }
        let scheduler = self
            .open
            .remove(&request)
            .or_else(|| self.pools.of(endpoint?));
        let finish = FinishReport {
            endpoint,
            outcome: finished.outcome(),
            ended: ended(finished),
            ttft: finished.ttft_us.map(Duration::from_micros),
        };
        match scheduler {
            Some(scheduler) => scheduler.finished(self.key(request), finish, self.pools.now()),
            None => self.pools.finished_unsent(self.key(request)),
        }
        ReportEvent::Finished
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

    fn brain_of(&mut self, endpoint: EndpointId) -> Option<Arc<PoolScheduler>> {
        let scheduler = self.pools.of(endpoint);
        if scheduler.is_none() {
            tracing::debug!(proxy = self.proxy.0, %endpoint, "report about an endpoint that is gone");
        }
        scheduler
    }

    fn remember(&mut self, request: RequestId, scheduler: Arc<PoolScheduler>) {
        if self.open.len() < MAX_OPEN {
            self.open.insert(request, scheduler);
        }
    }

    fn key(&self, request: RequestId) -> RequestKey {
        RequestKey {
            proxy: self.proxy,
            request,
        }
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
