//! One routed request's account: everything that is counted for it, and closed exactly once.
//!
//! The account is opened when the pool is known, travels with the request into the body of its answer, and is closed
//! by being dropped: with the outcome it was given, or as cancelled if it was given none, which is what a client that
//! leaves looks like, wherever the request is then.

use std::{sync::Arc, time::Duration};

use hermes_core::{
    query::{Query, Source},
    responses::ResponseKey,
    snapshot::Version,
};
use hermes_proto::v1;
use hermes_runtime::shutdown::Tracked;
use tokio::time::Instant;

use crate::{
    choose::{SelectedEndpoint, Selection},
    clock::uptime,
    endpoint::InFlightGuard,
    exchange::trace::RequestTrace,
    link::report::{Outcome, Reporter, RequestEnd},
    request::{
        admission::AdmissionPermit, inference_request::InferenceRequest, local_reply::LocalReply,
    },
    telemetry::{
        access_log::{AccessLog, AccessRecord},
        metrics::{Ended, ModelMetrics, Rung},
        usage::TokenUsage,
    },
    view::RoutingPool,
};

/// See the module.
pub(crate) struct RequestGuard {
    pub(crate) id: u64,
    pub(crate) trace: RequestTrace,
    reporter: Arc<Reporter>,
    records: Arc<AccessLog>,
    pool: Arc<RoutingPool>,
    model: Arc<ModelMetrics>,
    arrived: Instant,
    /// What the choice read of the request, and how it was made.
    query: Query,
    rung: Rung,
    waited: Duration,
    /// The model's name, if somebody listened when the endpoint was chosen.
    recorded: Option<Box<str>>,
    /// The attempt under way, or the one that was answered.
    attempt: Option<Attempt>,
    first_byte: Option<Instant>,
    last_byte: Option<Instant>,
    frames: u64,
    usage: Option<TokenUsage>,
    /// The response that the endpoint stored.
    stored_response: Option<ResponseKey>,
    /// What the answer at hand means, should it pass to its last byte.
    if_whole: Ended,
    ended: Ended,
    resent: u32,
    /// A place behind the gate, and the drain's patience.
    _held: (AdmissionPermit, Tracked),
}

/// A request as it comes in.
pub(crate) struct RequestStart {
    /// Unique in this run of the proxy.
    pub(crate) id: u64,
    pub(crate) at: Instant,
    pub(crate) trace: RequestTrace,
}

/// A request that was sent, or is about to be, to one endpoint.
struct Attempt {
    sent: Instant,
    in_flight: InFlightGuard,
    /// Prompt tokens that the endpoint was expected to have cached, and who said so.
    cached_tokens: u32,
    source: Option<Source>,
}

impl RequestGuard {
    pub(crate) fn open(
        arrival: RequestStart,
        pool: Arc<RoutingPool>,
        model: Option<&str>,
        (reporter, records): (Arc<Reporter>, Arc<AccessLog>),
        held: (AdmissionPermit, Tracked),
    ) -> Self {
        let RequestStart { id, at, trace } = arrival;
        pool.metrics.in_flight.inc();
        Self {
            id,
            trace,
            reporter,
            records,
            model: Arc::clone(pool.metrics.model(model)),
            pool,
            arrived: at,
            query: Query::default(),
            rung: Rung::default(),
            waited: Duration::ZERO,
            recorded: None,
            attempt: None,
            first_byte: None,
            last_byte: None,
            frames: 0,
            usage: None,
            stored_response: None,
            if_whole: Ended::Failed,
            ended: Ended::Cancelled,
            resent: 0,
            _held: held,
        }
    }

    /// Tells the server span what is asked.
    pub(crate) fn describe(&self, call: &InferenceRequest, version: Version) {
        let span = &self.trace.server;
        if span.is_disabled() {
            return;
        }
        span.record("gen_ai.operation.name", call.api.operation());
        span.record(
            "gen_ai.request.model",
            call.model.as_deref().map(crate::exchange::trace::bounded),
        );
        span.record("gen_ai.request.stream", call.stream);
        span.record(
            "hermes.strategy",
            self.pool.pool.spec.policy.strategy.name(),
        );
        span.record(
            "hermes.snapshot.version",
            i64::try_from(version.0).unwrap_or(i64::MAX),
        );
    }

    /// This is what a choice may read of the request.
    pub(crate) fn asks(&mut self, query: &Query, call: &InferenceRequest) {
        self.query = Query {
            unary: call.is_non_streaming(),
            ..query.clone()
        };
        self.recorded = self
            .records
            .has_listeners()
            .then(|| call.model.as_deref().unwrap_or_default().into());
    }

    /// Where the request goes was found.
    pub(crate) const fn planned(&mut self, plan: &Selection) {
        if let Some(prompt_tokens) = plan.why.prompt_tokens {
            self.query.prompt_tokens = prompt_tokens;
        }
        self.rung = plan.rung;
        self.waited = plan.why.waited;
    }

    /// The request goes to this endpoint now; an attempt before it is over.
    pub(crate) fn sending(&mut self, target: &SelectedEndpoint) {
        let SelectedEndpoint {
            upstream,
            cached_tokens,
            source,
        } = target;
        let uncached_tokens = u64::from(self.query.prompt_tokens.saturating_sub(*cached_tokens));
        let sent = Instant::now();
        if self.attempt.is_none() {
            self.model
                .queue
                .observe((sent - self.arrived).as_secs_f64());
        } else {
            self.resent += 1;
            self.pool.metrics.retries.inc();
        }
        if let Some(recall) = &self.pool.history {
            recall.remember(upstream.endpoint.id, &self.query);
        }
        self.reporter.started(
            self.id,
            upstream.endpoint.id,
            uncached_tokens,
            self.query.unary,
        );
        let in_flight = upstream.enter(uncached_tokens);
        self.attempt = Some(Attempt {
            sent,
            in_flight,
            cached_tokens: *cached_tokens,
            source: *source,
        });
    }

    /// The attempt failed and the request goes on elsewhere, or nowhere.
    pub(crate) fn attempt_failed(&self, outcome: Outcome) {
        if let Some(attempt) = &self.attempt {
            self.reporter.attempt_failed(
                self.id,
                attempt.in_flight.upstream().endpoint.id,
                outcome,
            );
        }
    }

    /// Bytes of the answer's body came.
    pub(crate) fn frame(&mut self, now: Instant) {
        self.frames += 1;
        self.last_byte = Some(now);
        if self.first_byte.is_none() {
            self.first(now);
        }
    }

    fn first(&mut self, now: Instant) {
        self.first_byte = Some(now);
        let Some(attempt) = &mut self.attempt else {
            return;
        };
        attempt.in_flight.answered();
        let upstream = attempt.in_flight.upstream();
        upstream.succeeded(uptime());
        let ttft = now - attempt.sent;
        self.reporter.first_byte(self.id, ttft);
        self.model.ttft.observe((now - self.arrived).as_secs_f64());
    }

    pub(crate) const fn used(&mut self, usage: TokenUsage) {
        self.usage = Some(usage);
    }

    /// The endpoint stored a response.
    pub(crate) const fn stored(&mut self, response: ResponseKey) {
        self.stored_response = Some(response);
    }

    /// A head came: what it means, should its body pass to the last byte.
    pub(crate) const fn answered(&mut self, if_whole: Ended) {
        self.if_whole = if_whole;
    }

    /// The answer passed to its last byte.
    pub(crate) const fn whole(&mut self) {
        self.ended = self.if_whole;
    }

    /// No endpoint was found.
    pub(crate) const fn refused(&mut self, refusal: &LocalReply) {
        self.ended = if refusal.is_overload() {
            Ended::Busy
        } else {
            Ended::Failed
        };
    }

    /// No answer comes, or it broke off.
    pub(crate) const fn failed(&mut self, ended: Ended) {
        self.ended = ended;
    }

    pub(crate) const fn arrived(&self) -> Instant {
        self.arrived
    }

    /// How often the request was sent before.
    pub(crate) const fn resent(&self) -> u32 {
        self.resent
    }

    fn duration_since_sent(&self, now: Instant) -> Duration {
        self.attempt
            .as_ref()
            .map_or(Duration::ZERO, |attempt| now - attempt.sent)
    }

    fn count_tokens(&self) {
        let Some(usage) = self.usage else {
            if self.ended == Ended::Ok {
                self.model.usage_missing.inc();
            }
            return;
        };
        self.model
            .prompt_tokens
            .inc_by(u64::from(usage.prompt_tokens));
        self.model
            .completion_tokens
            .inc_by(u64::from(usage.completion_tokens));
        self.model
            .cached_tokens
            .inc_by(u64::from(usage.cached_tokens.unwrap_or(0)));
        self.check_forecast(usage);
    }

    /// Cached tokens, if the engine tells of them.
    fn cached_tokens(&self, usage: TokenUsage) -> Option<u32> {
        self.pool
            .history
            .as_ref()
            .map_or(usage.cached_tokens, |recall| recall.cached_tokens(usage))
    }

    /// From the first byte to the last, of an answer that came in pieces.
    fn decoding(&self) -> Option<Duration> {
        let (first, last) = (self.first_byte?, self.last_byte?);
        (self.frames > 1 && !self.query.unary).then(|| last - first)
    }

    /// Compares what was expected to be cached with what the engine says.
    fn check_forecast(&self, usage: TokenUsage) {
        let (Ended::Ok, Some(attempt)) = (self.ended, &self.attempt) else {
            return;
        };
        let Some(reported) = self
            .cached_tokens(usage)
            .filter(|_| self.pool.history.is_some())
        else {
            return;
        };
        let expected = match attempt.source {
            // Counted in the engine's own tokens.
            Some(Source::Events) => attempt.cached_tokens,
            // Counted in estimated tokens: what was foreseen is a share of the prompt.
            Some(Source::Learned | Source::Manager) | None => {
                let (expected, estimated) = (
                    u64::from(attempt.cached_tokens),
                    u64::from(self.query.prompt_tokens),
                );
                (expected * u64::from(usage.prompt_tokens) / estimated.max(1)) as u32
            }
        };
        self.pool
            .metrics
            .forecasts
            .observe(attempt.source, expected, reported);
    }

    /// The answer as those who record see it.
    fn record(&self, model: Box<str>) -> AccessRecord {
        let told = self.usage;
        AccessRecord {
            arrived: self.arrived,
            model,
            pool: Arc::clone(self.pool.name()),
            tenant: self.query.tenant,
            block_bytes: self.pool.pool.spec.policy.block_bytes,
            prompt_bytes: self.query.prompt_bytes,
            blocks: Arc::clone(&self.query.blocks),
            prompt_tokens: told.map_or(self.query.prompt_tokens, |usage| usage.prompt_tokens),
            completion_tokens: told.map_or(self.frames, |usage| u64::from(usage.completion_tokens)),
            cached_tokens: told.and_then(|usage| usage.cached_tokens),
            ttft: self.first_byte.map(|first| first - self.arrived),
            endpoint: self
                .attempt
                .as_ref()
                .map(|attempt| Arc::clone(&attempt.in_flight.upstream().endpoint.name)),
            outcome: self.ended.name(),
        }
    }

    /// Seconds per output token after the first, of an answer that came in pieces.
    fn time_per_output_token(&self) -> Option<f64> {
        let (first, last) = (self.first_byte?, self.last_byte?);
        let tokens = self
            .usage
            .map_or(self.frames, |usage| u64::from(usage.completion_tokens));
        (self.frames > 1 && tokens > 1).then(|| (last - first).as_secs_f64() / (tokens - 1) as f64)
    }

    fn log(&self, now: Instant) {
        tracing::debug!(
            request = self.id,
            pool = %self.pool.name(),
            endpoint = self.attempt.as_ref().map(|attempt| &*attempt.in_flight.upstream().endpoint.name),
            rung = self.rung.name(),
            waited = ?self.waited,
            expected_cached_tokens = self.attempt.as_ref().map(|attempt| attempt.cached_tokens),
            expected_by = self.attempt.as_ref().and_then(|attempt| attempt.source).map(Source::name),
            cached_tokens = self.usage.and_then(|usage| usage.cached_tokens),
            outcome = self.ended.name(),
            ttft = ?self.first_byte.map(|first| first - self.arrived),
            duration = ?(now - self.arrived),
            resent = self.resent,
            "request over"
        );
    }

    fn record_span(&self) {
        let span = &self.trace.server;
        if span.is_disabled() {
            return;
        }
        span.record("hermes.outcome", self.ended.name());
        span.record("hermes.pool", &**self.pool.name());
        if let Some(attempt) = &self.attempt {
            span.record(
                "hermes.endpoint",
                &*attempt.in_flight.upstream().endpoint.name,
            );
        }
        if self.resent > 0 {
            span.record("http.request.resend_count", i64::from(self.resent));
        }
        if let Some(first) = self.first_byte {
            span.record(
                "gen_ai.response.time_to_first_chunk",
                (first - self.arrived).as_secs_f64(),
            );
        }
        if let Some(usage) = self.usage {
            span.record("gen_ai.usage.input_tokens", i64::from(usage.prompt_tokens));
            span.record(
                "gen_ai.usage.output_tokens",
                i64::from(usage.completion_tokens),
            );
            span.record(
                "gen_ai.usage.cache_read.input_tokens",
                i64::from(usage.cached_tokens.unwrap_or(0)),
            );
        }
        // A failure whose head came, or that is refused, has told its status.
        if matches!(self.ended, Ended::TimedOut | Ended::Broken) {
            self.trace.cut_off(self.ended.name());
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let now = Instant::now();
        self.pool.metrics.in_flight.dec();
        self.model.ended(self.ended);
        self.model
            .duration
            .observe((now - self.arrived).as_secs_f64());
        if let Some(seconds) = self.time_per_output_token() {
            self.model.tpot.observe(seconds);
        }
        self.count_tokens();
        self.record_span();
        self.log(now);
        if self.ended == Ended::Cancelled
            && self.first_byte.is_none()
            && let Some(attempt) = &self.attempt
        {
            attempt.in_flight.upstream().abandoned(uptime());
        }
        if let Some(model) = self.recorded.take() {
            self.records.publish(self.record(model));
        }
        let usage = self.usage.map(|usage| v1::Usage {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            cached_tokens: self.cached_tokens(usage),
        });
        let duration = self.duration_since_sent(now);
        let finished = RequestEnd {
            outcome: self.ended.outcome(),
            usage,
            duration,
            decoding: self.decoding(),
            stored_response: self.stored_response,
        };
        self.reporter.finished(self.id, finished);
    }
}

impl Ended {
    /// What the control plane is told.
    const fn outcome(self) -> Outcome {
        match self {
            Self::Ok | Self::ClientError => Outcome::Ok,
            Self::Busy => Outcome::Backpressure,
            Self::Cancelled => Outcome::Cancelled,
            Self::TimedOut => Outcome::TimedOut,
            Self::Failed | Self::Broken => Outcome::Failed,
        }
    }
}
