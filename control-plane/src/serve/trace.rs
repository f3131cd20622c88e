//! The span of one score request, for a trace that its client began.
//!
//! A request whose trace is not sampled costs nothing but a look at its flags, and so does every request while no
//! collector is configured: the span's call site is disabled then.

use hermes_core::{pick::Nobody, query::Choice, snapshot::Pool};
use hermes_proto::convert::Ask;
use hermes_runtime::{
    propagation::{adopt, extract_pair},
    telemetry::TRACE_TARGET,
};
use tracing::{Span, field::Empty, info_span};

/// Where the flags begin in `version-trace-parent-flags`.
const FLAGS: usize = 53;

/// A span for `ask`, child of the proxy's; disabled when nobody records it.
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
        error.type = Empty,
    );
    adopt(&span, &extract_pair(&ask.traceparent, &ask.tracestate));
    span
}

/// Writes down what was chosen in `pool`, and among how many.
pub(super) fn record(span: &Span, pool: &Pool, result: &Result<Choice, Nobody>) {
    if span.is_disabled() {
        return;
    }
    span.record("hermes.strategy", pool.spec.policy.strategy.name());
    span.record("hermes.candidates", i64::try_from(pool.endpoints.len()).unwrap_or(i64::MAX));
    match result {
        Ok(choice) => {
            // The pool may have changed since.
            if let Some(position) = pool.position(choice.ranked[0].endpoint) {
                span.record("hermes.endpoint", &*pool.endpoints[position].name);
            }
            span.record("hermes.expected.cached_tokens", i64::from(choice.ranked[0].cached_tokens));
        }
        Err(nobody) => {
            span.record("error.type", nobody.to_string());
        }
    }
}

fn is_sampled(traceparent: &str) -> bool {
    let flags = traceparent.get(FLAGS..FLAGS + 2).and_then(|flags| u8::from_str_radix(flags, 16).ok());
    flags.is_some_and(|flags| flags & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sampled_parent_is_worth_a_span() {
        let parent = |flags: &str| format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
        assert!(is_sampled(&parent("01")) && is_sampled(&parent("03")));
        assert!(!is_sampled(&parent("00")) && !is_sampled(&parent("02")));
        assert!(!is_sampled("") && !is_sampled(&parent("é")) && !is_sampled("00"));
    }
}
