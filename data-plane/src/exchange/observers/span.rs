//! Completes the server span of a finished request.

use crate::{
    exchange::{summary::RequestSummary, trace},
    telemetry::metrics::RequestOutcome,
};

pub(super) fn observe(summary: &RequestSummary<'_>) {
    let span = &summary.trace.server;
    if span.is_disabled() {
        return;
    }
    let outcome = summary.outcome.name();
    span.record("hermes.outcome", outcome);
    span.record("hermes.pool", &**summary.pool.name());
    if let Some(attempt) = summary.attempt {
        span.record("hermes.endpoint", &*attempt.upstream.endpoint.name);
    }
    if summary.retries > 0 {
        span.record("http.request.resend_count", i64::from(summary.retries));
    }
    if let Some(ttft) = summary.timeline.time_to_first_token() {
        span.record("gen_ai.response.time_to_first_chunk", ttft.as_secs_f64());
    }
    if let Some(parts) = summary.ttft_parts() {
        trace::ttft_parts(span, summary.queued, parts);
    }
    if let Some(usage) = summary.usage {
        let cached_tokens = usage.cached_tokens.unwrap_or(0);
        span.record("gen_ai.usage.input_tokens", i64::from(usage.prompt_tokens));
        span.record(
            "gen_ai.usage.output_tokens",
            i64::from(usage.completion_tokens),
        );
        span.record(
            "gen_ai.usage.cache_read.input_tokens",
            i64::from(cached_tokens),
        );
    }
    // Other failures have set the status of their head or local reply.
    if matches!(
        summary.outcome,
        RequestOutcome::TimedOut | RequestOutcome::Truncated
    ) {
        if let Some(attempt) = summary.attempt {
            trace::failed(&attempt.span, outcome);
        }
        trace::failed(span, outcome);
    }
}
