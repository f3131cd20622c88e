//! Reports of proxies and results of probes.
//!
//! Three things follow from an event: the scheduler moves, the endpoint's health changes, and those
//! who wait may get their turn. Health changes by what an endpoint did: it served a request,
//! failed, refused one that others serve, or asked to be left alone. An attempt counts once: what
//! served nothing is reported by itself, and the end of a request counts against no endpoint.

use std::time::Duration;

use hermes_core::{
    ejection::EndpointFailure,
    history::RoutedPrompt,
    ledger::{LegId, LegKey, LegPhase, ListedLeg, OpenLeg, ProxyId, RequestKey},
    refusals::{PeerAnswers, SecondOpinion},
    scheduler::{CachePrediction, EngineUsage},
    snapshot::EndpointId,
};
use hermes_proto::v1::{AnswerClass, RequestOutcome};

use super::{PoolScheduler, SchedulerState, endpoint_state::EndpointState};
use crate::{
    engines::ProbeResult,
    metrics::{ReleaseCause, ScoreOutcome},
};

/// Replayed prompts per lock: a thousand of them delay a choice by about a millisecond.
const REPLAY_BATCH: usize = 256;

/// An attempt that served nothing, as its proxy reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AttemptReport {
    /// Where it was sent.
    pub(crate) endpoint: EndpointId,
    /// How it went.
    pub(crate) outcome: RequestOutcome,
    /// What came instead of tokens; unspecified when nothing came, and by an older proxy.
    pub(crate) answer: AnswerClass,
    /// How long an overloaded endpoint asked to be left alone.
    pub(crate) retry_after: Option<Duration>,
    /// What came of the same request elsewhere, if it was refused.
    pub(crate) opinion: SecondOpinion,
}

/// How a leg ended, as its proxy reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FinishReport {
    /// Where it was sent last, if anywhere.
    pub(crate) endpoint: Option<EndpointId>,
    /// How it went.
    pub(crate) outcome: RequestOutcome,
    /// What its answer is; unspecified when there is none, and by an older proxy.
    pub(crate) answer: AnswerClass,
    /// An attempt of the leg that served nothing was reported by itself.
    pub(crate) is_blamed: bool,
    /// The usage that the engine reported.
    pub(crate) ended: EngineUsage,
    /// From sending to the first byte, when all reports of the leg came as one.
    pub(crate) ttft: Option<Duration>,
}

impl AttemptReport {
    /// Whether its answer is no failure by itself. Of an engine's errors, 501 and those like it are
    /// none: their outcome is that of other refusals.
    const fn is_refusal(&self) -> bool {
        match self.answer {
            AnswerClass::Empty | AnswerClass::ClientError | AnswerClass::NotAnAnswer => true,
            AnswerClass::EngineError => {
                matches!(self.outcome, RequestOutcome::Ok | RequestOutcome::Cancelled)
            }
            AnswerClass::Unspecified
            | AnswerClass::Tokens
            | AnswerClass::Overloaded
            | AnswerClass::ErrorEvent => false,
        }
    }

    /// Whether another endpoint said the same 429 to the same request. An attempt that was reported
    /// before it was known is reported again.
    fn is_quota(&self) -> bool {
        self.answer == AnswerClass::Overloaded && self.opinion == SecondOpinion::Confirmed
    }
}

impl FinishReport {
    /// The end of a leg that says nothing of any endpoint: what is booked is released.
    pub(crate) const RELEASE: Self = Self {
        endpoint: None,
        outcome: RequestOutcome::Unspecified,
        answer: AnswerClass::Unspecified,
        is_blamed: false,
        ended: EngineUsage {
            prompt_tokens: None,
            cached_tokens: None,
            completion_tokens: None,
            decoding: None,
        },
        ttft: None,
    };
}

impl PoolScheduler {
    /// A leg was sent to `endpoint`; `non_streaming`: its answer comes as a whole.
    pub(crate) fn started(
        &self,
        leg: impl Into<LegKey>,
        endpoint: EndpointId,
        uncached_tokens: u32,
        non_streaming: bool,
        now: Duration,
    ) {
        let leg = leg.into();
        let mut state = self.state.lock();
        // A proxy that chose by itself waits for no answer any more.
        state.replies.remove(&leg.request);
        state
            .scheduler
            .started(leg, endpoint, uncached_tokens, non_streaming, now);
        self.release(&mut state, now);
    }

    /// The first byte of a leg's answer came, `ttft` after it was sent.
    pub(crate) fn first_byte(&self, leg: impl Into<LegKey>, ttft: Duration, now: Duration) {
        let mut state = self.state.lock();
        let Some(before) = state.scheduler.first_byte(leg, Some(ttft), now) else {
            return;
        };
        state.judge(before.endpoint, now, |endpoint| endpoint.succeeded(now));
        self.release(&mut state, now);
    }

    /// An attempt served nothing.
    pub(crate) fn attempt_failed(&self, attempt: AttemptReport, now: Duration) {
        let mut state = self.state.lock();
        if attempt.is_refusal() {
            state.refused(attempt.endpoint, attempt.opinion, now);
        } else if attempt.is_quota() {
            state.judge(attempt.endpoint, now, |endpoint| {
                endpoint.breaker.on_limited(now);
            });
        } else {
            state.blame(attempt.endpoint, attempt.outcome, attempt.retry_after, now);
        }
    }

    /// A leg is over; with the main leg the request is, and all its legs.
    pub(crate) fn finished(&self, leg: impl Into<LegKey>, finish: FinishReport, now: Duration) {
        let leg = leg.into();
        let FinishReport {
            endpoint,
            outcome,
            answer,
            is_blamed,
            ended,
            ttft,
        } = finish;
        let mut state = self.state.lock();
        if let Some(ttft) = ttft.filter(|_| outcome == RequestOutcome::Ok) {
            _ = state.scheduler.first_byte(leg, Some(ttft), now);
        }
        let open = if leg.leg == LegId::MAIN {
            self.request_finished(&mut state, leg.request, ended, now)
        } else {
            let open = state.scheduler.leg_finished(leg, now);
            self.count_released(ReleaseCause::Report, usize::from(open.is_some()));
            open
        };
        if let Some(endpoint) = endpoint {
            let answered =
                ttft.is_none() && open.is_some_and(|open| open.phase == LegPhase::Answering);
            let is_served = matches!(answer, AnswerClass::Unspecified | AnswerClass::Tokens);
            match outcome {
                // Its first byte said so already, and what ends now may have begun before the
                // endpoint failed.
                RequestOutcome::Ok | RequestOutcome::Cancelled if answered => {}
                RequestOutcome::Ok if is_served => {
                    state.judge(endpoint, now, |endpoint| endpoint.succeeded(now));
                }
                RequestOutcome::Ok => {}
                _ if is_blamed => {}
                outcome => state.blame(endpoint, outcome, None, now),
            }
        }
        self.release(&mut state, now);
    }

    /// A leg went on in another pool: what is open of it here is released. Other legs of its
    /// request stay.
    pub(crate) fn leg_left(&self, leg: LegKey, now: Duration) {
        let mut state = self.state.lock();
        let open = state.scheduler.leg_left(leg, now);
        self.count_released(ReleaseCause::Report, usize::from(open.is_some()));
        self.release(&mut state, now);
    }

    /// Returns the main leg, if it was open.
    fn request_finished(
        &self,
        state: &mut SchedulerState,
        key: RequestKey,
        ended: EngineUsage,
        now: Duration,
    ) -> Option<OpenLeg> {
        state.replies.remove(&key);
        let (released, calibration) = state.scheduler.finished(key, ended, now);
        if let Some(CachePrediction {
            source,
            expected,
            reported,
        }) = calibration
        {
            self.metrics.predictions(source).observe(expected, reported);
        }
        let released = released?;
        self.count_released(ReleaseCause::Report, released.count());
        released.main()
    }

    fn count_released(&self, cause: ReleaseCause, legs: usize) {
        self.metrics.releases[cause].inc_by(legs as u64);
    }

    /// The proxy does not want its answer any more. A request that was sent stays. Whether it
    /// waited.
    pub(crate) fn cancel(&self, key: RequestKey, now: Duration) -> bool {
        let mut state = self.state.lock();
        state.replies.remove(&key);
        let (booking, waited) = state.scheduler.cancel(key, now);
        if waited {
            self.metrics.scores[ScoreOutcome::Cancelled].inc();
        }
        if let Some(booking) = booking {
            for (_, open) in booking.legs() {
                state.judge(open.endpoint, now, |endpoint| {
                    endpoint.breaker.on_abandoned(now);
                });
            }
            self.count_released(ReleaseCause::Cancel, booking.count());
            self.release(&mut state, now);
        }
        waited
    }

    /// A proxy says what it really has open in this pool.
    pub(crate) fn replace_proxy(&self, proxy: ProxyId, open: Vec<ListedLeg>, now: Duration) {
        let mut state = self.state.lock();
        state.scheduler.replace_proxy(proxy, open, now);
        self.release(&mut state, now);
    }

    /// A proxy is gone for good.
    pub(crate) fn forget_proxy(&self, proxy: ProxyId, now: Duration) {
        let mut state = self.state.lock();
        state.replies.retain(|key, _| key.proxy != proxy);
        let released = state.scheduler.forget_proxy(proxy, now);
        self.count_released(ReleaseCause::ProxyGone, released);
        self.release(&mut state, now);
    }

    /// A proxy remembers what was sent where before this replica knew of it; blocks of another size
    /// mean nothing here.
    pub(crate) fn replay_history(&self, decisions: &[RoutedPrompt], block_bytes: u32) {
        for batch in decisions.chunks(REPLAY_BATCH) {
            let mut state = self.state.lock();
            if state.scheduler.pool().spec.policy.block_bytes != block_bytes {
                return;
            }
            for decision in batch {
                state
                    .scheduler
                    .replay_history(decision.endpoint, &decision.blocks);
            }
        }
    }

    /// The collector asked an endpoint.
    pub(crate) fn observe(&self, observation: &ProbeResult, now: Duration) {
        let mut state = self.state.lock();
        let Some(position) = state.scheduler.pool().position(observation.endpoint) else {
            return;
        };
        state.endpoints[position].is_loading = observation.is_loading;
        let news = state.endpoints[position].observe(&observation.outcome, now);
        if news.process.restarted {
            state.scheduler.restarted(position);
        }
        if let Some(shared) = news.process.shared {
            let endpoint = observation.endpoint;
            if shared {
                tracing::warn!(%endpoint, "several engines answer at this endpoint's address in turn: what they have cached is not learned; list each engine by an address of its own");
            } else {
                tracing::info!(%endpoint, "one engine answers at this endpoint's address");
            }
            state.scheduler.set_shared(position, shared);
        }
        if let Some(capacity) = news.capacity {
            state.scheduler.set_capacity(position, Some(capacity));
        }
        if let Some(counters) = news.counters {
            state.scheduler.cache_counted(position, counters, now);
        }
        let lanes = state.settings.lanes(state.endpoints[position].schedulers);
        state.scheduler.set_lanes(position, lanes, now);
        // Older figures know nothing of what was sent since, which is counted beside them.
        if observation.outcome.is_ok() {
            let sample = state.endpoints[position].sample(now, state.settings.stale_after);
            state.scheduler.set_sample(position, sample);
        }
        state.reassess(position, now);
        self.release(&mut state, now);
    }
}

impl SchedulerState {
    /// The endpoint refused a request.
    fn refused(&mut self, endpoint: EndpointId, opinion: SecondOpinion, now: Duration) {
        let peers = self.peers_of(endpoint, now);
        self.judge(endpoint, now, |state| {
            if state.breaker.on_refusal(now, opinion, &peers) {
                tracing::warn!(%endpoint, "endpoint is ejected: it refuses what its peers serve");
            }
        });
    }

    /// The answers of its peers.
    fn peers_of(&self, endpoint: EndpointId, now: Duration) -> PeerAnswers {
        let mut peers = PeerAnswers::default();
        let own = self.scheduler.pool().position(endpoint).unwrap_or(0);
        for position in PeerAnswers::positions(own, self.endpoints.len()) {
            let peer = &self.endpoints[position];
            peers.add(peer.breaker.answers(now), peer.health(now));
        }
        peers
    }

    fn blame(
        &mut self,
        endpoint: EndpointId,
        outcome: RequestOutcome,
        retry_after: Option<Duration>,
        now: Duration,
    ) {
        let failure = match outcome {
            RequestOutcome::Unreachable => EndpointFailure::Connect,
            RequestOutcome::Failed => EndpointFailure::Reset,
            RequestOutcome::TimedOut => EndpointFailure::Timeout,
            RequestOutcome::Overloaded => {
                let peers = self.peers_of(endpoint, now);
                return self.judge(endpoint, now, |state| {
                    state.breaker.on_overload(now, retry_after, &peers);
                });
            }
            RequestOutcome::Ok | RequestOutcome::Cancelled | RequestOutcome::Unspecified => {
                return self.judge(endpoint, now, |endpoint| endpoint.breaker.on_abandoned(now));
            }
        };
        self.judge(endpoint, now, |state| {
            if state.breaker.on_failure(now, failure) {
                tracing::info!(%endpoint, ?failure, "endpoint is ejected");
            }
        });
    }

    fn judge(
        &mut self,
        endpoint: EndpointId,
        now: Duration,
        verdict: impl FnOnce(&mut EndpointState),
    ) {
        let Some(position) = self.scheduler.pool().position(endpoint) else {
            return;
        };
        verdict(&mut self.endpoints[position]);
        self.scheduler
            .set_health(position, self.endpoints[position].health(now));
    }
}
