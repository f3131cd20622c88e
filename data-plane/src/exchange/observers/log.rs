//! Logs a finished request.

use hermes_core::query::CacheSource;

use crate::{exchange::summary::RequestSummary, telemetry::metrics::AnswerClass};

pub(super) fn observe(summary: &RequestSummary<'_>) {
    tracing::debug!(
        request = summary.id,
        pool = %summary.pool.name(),
        endpoint = summary.attempt.map(|attempt| &*attempt.upstream.endpoint.name),
        level = summary.level.name(),
        queued = ?summary.queued,
        expected_cached_tokens = summary.attempt.map(|attempt| attempt.cached_tokens),
        expected_by = summary.attempt.and_then(|attempt| attempt.source).map(CacheSource::name),
        cached_tokens = summary.usage.and_then(|usage| usage.cached_tokens),
        outcome = summary.outcome.name(),
        answer = summary.answer.map(AnswerClass::name),
        ttft = ?summary.timeline.time_to_first_token(),
        duration = ?summary.duration(),
        retries = summary.retries,
        "request finished"
    );
}
