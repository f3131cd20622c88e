//! The legs of a request, as its guard counts and reports them.

use hermes_core::{ejection::EndpointFailure, ledger::LegId, snapshot::EndpointId};
use hermes_runtime::propagation;
use tokio::time::Instant;

use super::RequestGuard;
use crate::{
    choose::SelectedEndpoint,
    clock::uptime,
    exchange::{
        admitted_endpoint::AdmittedEndpoint,
        attempt::{Attempt, AttemptFacts, LegStage},
        pair_times::{PairAttempt, PairTimes},
    },
    link::report::{FailedAttempt, LegEnd, ReportedOutcome},
    request::inference_request::InferenceRequest,
    telemetry::metrics::{AnswerClass, AttemptOutcome, EjectionReason, PairEnd},
};

impl RequestGuard {
    /// The request is sent to an endpoint, or to a pair, from now on; a previous attempt has ended.
    pub(in crate::exchange) fn count_attempt(&mut self, request: &InferenceRequest) {
        if self.attempts == 0 {
            let routing = self.timeline.arrived().elapsed();
            self.sinks.model.routing.observe(routing.as_secs_f64());
        } else {
            self.pool.metrics.endpoints.retries.inc();
        }
        self.attempts += 1;
        self.refusals.sent(request, &self.pool);
    }

    /// This leg is sent to this endpoint now.
    pub(in crate::exchange) fn begin_leg(
        &mut self,
        stage: LegStage,
        to: AdmittedEndpoint<'_>,
        request: &InferenceRequest,
    ) -> Attempt {
        let uncached = match stage {
            LegStage::Both | LegStage::Prefill => self.uncached(to.endpoint),
            LegStage::Decode => 0,
        };
        let id = to.endpoint.upstream.endpoint.id;
        self.remember(id);
        if stage == LegStage::Prefill {
            self.report_prefill(id, uncached);
        } else {
            self.report_main(id, uncached);
        }
        self.begin(stage, to, uncached, request)
    }

    /// The leg that has just begun was sent earlier, at some time after this one.
    pub(in crate::exchange) fn sent_before(&mut self, attempt: Attempt, sent: Instant) -> Attempt {
        let attempt = attempt.sent_at(sent);
        self.attempt = Some(attempt.facts().clone());
        attempt
    }

    /// This endpoint is sent the request for a pair, at whose endpoints its legs are counted.
    pub(in crate::exchange) fn begin_through(
        &mut self,
        entry: AdmittedEndpoint<'_>,
        (prefill, decode): (&SelectedEndpoint, &SelectedEndpoint),
        request: &InferenceRequest,
    ) -> Attempt {
        for endpoint in [prefill, decode] {
            self.remember(endpoint.upstream.endpoint.id);
        }
        let uncached = self.uncached(prefill);
        self.report_prefill(prefill.upstream.endpoint.id, uncached);
        self.reserve(decode);
        self.begin(LegStage::Both, entry, uncached, request)
    }

    /// A decode endpoint keeps room for a request whose prompt is computed elsewhere first.
    pub(in crate::exchange) fn reserve(&self, decode: &SelectedEndpoint) {
        self.report_main(decode.upstream.endpoint.id, 0);
    }

    /// The prefill leg was answered at that time: the prompt is computed. Whether its endpoint has
    /// served is seen when the KV cache is used: see [`crate::exchange::transfer`].
    pub(in crate::exchange) fn prefill_answered(&mut self, prefill: &AttemptFacts, at: Instant) {
        let metrics = &self.pool.metrics;
        metrics.endpoints.attempts[AttemptOutcome::Answered].inc();
        metrics.endpoints.answers[AnswerClass::Tokens].inc();
        self.prompt_computed(prefill, at);
    }

    /// The prefill leg has computed the prompt at that time. It is answered by what follows, or is
    /// the answer.
    pub(in crate::exchange) fn prompt_computed(&mut self, prefill: &AttemptFacts, at: Instant) {
        let took = prefill.since_sent(at);
        let metrics = &self.pool.metrics.pairs;
        metrics.prefill.observe(took.as_secs_f64());
        if let Some(pair) = &mut self.pair {
            pair.times.prefill_answered(at);
        }
        self.end_prefill(ReportedOutcome::Ok);
    }

    /// The prefill endpoint has stated the cached tokens of the prompt: all that the decode endpoint
    /// took over would be more.
    pub(in crate::exchange) const fn prefill_cached(&mut self, tokens: Option<u32>) {
        self.prefill_cached_tokens = tokens;
    }

    /// Cached tokens that the usage of the answer is to state, if others than its endpoint states.
    pub(in crate::exchange) const fn cached_tokens(&self) -> Option<u32> {
        self.prefill_cached_tokens
    }

    /// The first token of the answer came: of a pair's, if its decode leg streams, that is counted.
    pub(super) fn decode_leg_answered(&self, first_token: Instant) {
        let pair = self.pair.as_ref().filter(|_| !self.query.non_streaming);
        if let Some(took) = pair.and_then(|pair| pair.times.decode(first_token)) {
            self.pool.metrics.pairs.decode.observe(took.as_secs_f64());
        }
    }

    /// The prefill leg failed, and perhaps the decode leg that was sent last, which is not blamed.
    pub(in crate::exchange) fn blame_prefill(&mut self, prefill: AttemptFacts) {
        let decode = self
            .attempt
            .as_ref()
            .map(|decode| decode.upstream.endpoint.id);
        if let Some(pair) = &mut self.pair {
            pair.doubted = decode;
        }
        self.blame(prefill);
    }

    /// This leg failed, and with it the attempt: the one that was sent last has no result.
    pub(in crate::exchange) fn blame(&mut self, leg: AttemptFacts) {
        if let Some(last) = self.attempt.replace(leg) {
            last.give_up();
        }
    }

    /// The attempt fails, perhaps because of the endpoint of this leg, which is not the attempt's.
    pub(in crate::exchange) fn suspect(&self, leg: &AttemptFacts, failure: EndpointFailure) {
        if leg.upstream.failed(uptime(), failure) {
            self.ejected(&leg.upstream, EjectionReason::Failures);
        }
        self.report_failed(leg, FailedAttempt::of(ReportedOutcome::Failed));
    }

    /// An attempt at a pair has ended, and its prefill leg with it, unless the answer is relayed.
    pub(in crate::exchange) fn pair_ended(&mut self, is_served: bool) {
        let leg = self.attempt.as_ref().map(|attempt| attempt.leg);
        let end = match leg {
            _ if is_served => PairEnd::Answered,
            Some(LegId::PREFILL) => PairEnd::PrefillFailed,
            _ => PairEnd::DecodeFailed,
        };
        self.pool.metrics.pairs.ends[end].inc();
        if end != PairEnd::Answered {
            self.end_prefill(ReportedOutcome::Cancelled);
        }
    }

    /// Reports the end of the prefill leg, if one is open.
    pub(super) fn end_prefill(&mut self, outcome: ReportedOutcome) {
        let Some(prefilling) = self.prefilling.take() else {
            return;
        };
        let (endpoint, sent) = *prefilling;
        let (leg, took) = (self.reported(LegId::PREFILL), sent.elapsed());
        let is_answered = outcome == ReportedOutcome::Ok;
        if is_answered {
            self.sinks.reporter.first_byte(leg, took);
        }
        let end = LegEnd {
            endpoint: Some(endpoint),
            outcome,
            answer: is_answered.then_some(AnswerClass::Tokens.into()),
            usage: None,
            duration: took,
            decoding: None,
            stored_response: None,
        };
        self.sinks.reporter.finished(leg, end);
    }

    fn report_main(&self, endpoint: EndpointId, uncached: u32) {
        let (main, non_streaming) = (self.reported(LegId::MAIN), self.query.non_streaming);
        let reporter = &self.sinks.reporter;
        reporter.started(main, endpoint, uncached.into(), non_streaming);
    }

    fn report_prefill(&mut self, endpoint: EndpointId, uncached: u32) {
        self.prefilling = Some(Box::new((endpoint, Instant::now())));
        let leg = self.reported(LegId::PREFILL);
        // It is answered when the prompt is computed, streaming or not.
        let reporter = &self.sinks.reporter;
        reporter.started(leg, endpoint, uncached.into(), false);
    }

    /// Tokens of the prompt that are to be computed there.
    fn uncached(&self, endpoint: &SelectedEndpoint) -> u32 {
        let prompt = self.query.prompt_tokens;
        prompt.saturating_sub(endpoint.cached_tokens)
    }

    fn remember(&self, endpoint: EndpointId) {
        if let Some(history) = &self.pool.history {
            history.remember(endpoint, &self.query);
        }
    }

    fn begin(
        &mut self,
        stage: LegStage,
        to: AdmittedEndpoint<'_>,
        uncached: u32,
        request: &InferenceRequest,
    ) -> Attempt {
        let resend = self.attempts.saturating_sub(1);
        let upstream = &to.endpoint.upstream;
        let span = self.trace.attempt(upstream, request, stage.name(), resend);
        self.answer = None;
        self.prefill_cached_tokens = None;
        let sent = Instant::now();
        let attempt = Attempt::begin(stage, to, uncached.into(), span, sent);
        self.time(stage, &attempt, sent);
        self.attempt = Some(attempt.facts().clone());
        attempt
    }

    /// Takes the time at which a leg was sent. The span of a decode leg follows from that of its
    /// prefill leg, which is the attempt before it.
    fn time(&mut self, stage: LegStage, leg: &Attempt, sent: Instant) {
        match (stage, &mut self.pair) {
            (LegStage::Prefill, pair) => {
                *pair = Some(Box::new(PairAttempt {
                    times: PairTimes::starting(sent),
                    doubted: None,
                }));
            }
            (LegStage::Decode, Some(pair)) => {
                pair.times.decode_sent(sent);
                if let Some(handover) = pair.times.handover() {
                    let metrics = &self.pool.metrics.pairs;
                    metrics.handover.observe(handover.as_secs_f64());
                }
                if let Some(prefill) = &self.attempt {
                    propagation::link(&leg.facts().span, &prefill.span);
                }
            }
            (LegStage::Both | LegStage::Decode, pair) => *pair = None,
        }
    }
}
