//! The span of one score request, for a trace that its client began.
//!
//! A request whose trace is not sampled costs nothing but a look at its flags, and so does every
//! request while no collector is configured: the span's call site is disabled then.

use hermes_core::{
    explanation::ExpectedCosts, query::CacheSource, scheduler::Assignment, snapshot::Pool,
};
use hermes_proto::convert::Ask;
use hermes_runtime::{
    propagation::{adopt, extract_pair},
    telemetry::TRACE_TARGET,
};
use tracing::{Span, field::Empty, info_span};

use crate::{metrics::ScoreOutcome, pools::ScoreRejection};

/// Where the flags begin in `version-trace-parent-flags`.
const FLAGS: usize = 53;

/// A span for `ask`, child of the proxy's; disabled when it is not recorded.
pub(super) fn span(ask: &Ask) -> Span {
    if !is_sampled(&ask.traceparent) {
        return Span::none();
    }
    let span = info_span!(
        target: TRACE_TARGET,
        "score",
        otel.kind = "internal",
        hermes.pool = &*ask.pool,
        hermes.strategy = Empty,
        hermes.candidates = Empty,
        hermes.endpoint = Empty,
        hermes.expected.cached_tokens = Empty,
        hermes.expected.source = Empty,
        hermes.expected.wait = Empty,
        hermes.expected.time_to_first_token = Empty,
        hermes.waited = Empty,
        hermes.gamma = Empty,
        hermes.runner_up = Empty,
        error.type = Empty,
    );
    adopt(&span, &extract_pair(&ask.traceparent, &ask.tracestate));
    span
}

/// Writes down what was chosen in `pool`, and among how many.
pub(super) fn record(span: &Span, pool: &Pool, end: Option<&Result<Assignment, ScoreRejection>>) {
    span.record("hermes.strategy", pool.spec.policy.strategy.name());
    span.record(
        "hermes.candidates",
        i64::try_from(pool.endpoints.len()).unwrap_or(i64::MAX),
    );
    match end {
        Some(Ok(binding)) => bound(span, pool, binding),
        Some(Err(refusal)) => _ = span.record("error.type", ScoreOutcome::from(refusal).name()),
        None => _ = span.record("error.type", "pool_gone"),
    }
}

fn bound(span: &Span, pool: &Pool, binding: &Assignment) {
    // The pool may have changed since.
    let name = |endpoint| {
        pool.position(endpoint)
            .map(|position| &*pool.endpoints[position].name)
    };
    let first = binding.choice.ranked[0];
    span.record("hermes.endpoint", name(first.endpoint));
    span.record(
        "hermes.expected.cached_tokens",
        i64::from(first.cached_tokens),
    );
    span.record(
        "hermes.expected.source",
        binding.source.map(CacheSource::name),
    );
    span.record("hermes.waited", binding.waited.as_secs_f64());
    let Some(ExpectedCosts {
        queue_delay: ahead,
        ttft,
        gamma,
        runner_up,
        ..
    }) = binding.costs
    else {
        return;
    };
    span.record("hermes.expected.wait", ahead.as_secs_f64());
    span.record("hermes.expected.time_to_first_token", ttft.as_secs_f64());
    span.record("hermes.gamma", f64::from(gamma));
    span.record("hermes.runner_up", runner_up.and_then(name));
}

fn is_sampled(traceparent: &str) -> bool {
    let flags = traceparent
        .get(FLAGS..FLAGS + 2)
        .and_then(|flags| u8::from_str_radix(flags, 16).ok());
    flags.is_some_and(|flags| flags & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sampled_parent_is_worth_a_span() {
        let parent =
            |flags: &str| format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        assert!(is_sampled(&parent("01")) && is_sampled(&parent("03")));
        assert!(!is_sampled(&parent("00")) && !is_sampled(&parent("02")));
        assert!(!is_sampled("") && !is_sampled(&parent("é")) && !is_sampled("00"));
    }
}
