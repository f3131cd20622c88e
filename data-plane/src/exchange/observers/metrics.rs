//! Counts a finished request in the metrics of its model and pool.

use hermes_core::query::CacheSource;

use crate::{
    exchange::{attempt::AttemptFacts, summary::RequestSummary},
    telemetry::{
        metrics::{ModelMetrics, RequestOutcome},
        usage::TokenUsage,
    },
};

pub(super) fn observe(summary: &RequestSummary<'_>, model: &ModelMetrics) {
    summary.pool.metrics.in_flight.dec();
    model.requests[summary.outcome].inc();
    model.duration.observe(summary.duration().as_secs_f64());
    let tokens = summary.output_tokens();
    if let Some(seconds) = summary.timeline.time_per_output_token(tokens) {
        model.time_per_output_token.observe(seconds);
    }
    let Some(usage) = summary.usage else {
        if summary.outcome == RequestOutcome::Ok {
            model.usage_missing.inc();
        }
        return;
    };
    model.prompt_tokens.inc_by(u64::from(usage.prompt_tokens));
    model
        .completion_tokens
        .inc_by(u64::from(usage.completion_tokens));
    model
        .cached_tokens
        .inc_by(u64::from(usage.cached_tokens.unwrap_or(0)));
    if let (RequestOutcome::Ok, Some(attempt)) = (summary.outcome, summary.attempt) {
        compare_cached_tokens(summary, attempt, usage);
    }
}

/// Compares the cached tokens that were expected with those that the engine reports.
fn compare_cached_tokens(summary: &RequestSummary<'_>, attempt: &AttemptFacts, usage: TokenUsage) {
    let pool = summary.pool;
    let Some(reported) = summary.cached_tokens.filter(|_| pool.history.is_some()) else {
        return;
    };
    let cached_tokens = attempt.cached_tokens;
    let expected = match attempt.source {
        // Counted in the engine's own tokens.
        Some(CacheSource::KvEvents) => cached_tokens,
        // Counted in estimated tokens: the expectation is a share of the prompt.
        Some(CacheSource::Learned | CacheSource::KvManager) | None => {
            let estimated = u64::from(summary.query.prompt_tokens).max(1);
            (u64::from(cached_tokens) * u64::from(usage.prompt_tokens) / estimated) as u32
        }
    };
    pool.metrics
        .selections
        .predictions(attempt.source)
        .observe(expected, reported);
}
