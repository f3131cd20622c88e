//! W3C trace context in and out (<https://www.w3.org/TR/trace-context/>).
//!
//! A request brings `traceparent` and `tracestate` as HTTP headers, and a `hermes.v1` message as
//! two string fields. Both become an OpenTelemetry [`Context`] and back.
//!
//! ```text
//!   incoming = extract(headers)          what the client sent
//!   adopt(&server_span, &incoming)       before the span is entered: afterwards its parent cannot change
//!   outgoing = egress(&client_span, &incoming)
//!   inject(&outgoing, headers)           what the next hop sees
//! ```
//!
//! A client's trace goes on whether this process records spans or not: with tracing off every span
//! is disabled, [`egress`] answers the client's own context, and the next hop sees the
//! `traceparent` that came in. A context is a hint: one that is malformed counts as absent and
//! never fails a request.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The header, and the message field, that names trace, parent span and sampling.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The header, and the message field, with what vendors add.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The longest `tracestate` that is kept, in bytes. The standard asks for 512; a longer one than
/// this is dropped.
const TRACESTATE_LIMIT: usize = 4096;

/// Reads the trace context of a request. The empty context when it has none, or a malformed one.
#[must_use]
pub fn extract(headers: &HeaderMap) -> Context {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else {
        return Context::new();
    };
    let Ok(parent) = parent.to_str() else {
        return Context::new();
    };
    let states: Vec<&str> = headers
        .get_all(TRACESTATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    extract_pair(parent, &states.join(","))
}

/// Reads the trace context from the two string fields of a message; an absent field is an empty
/// string.
#[must_use]
pub fn extract_pair(traceparent: &str, tracestate: &str) -> Context {
    let Some((trace, span, flags)) = parse_traceparent(traceparent) else {
        return Context::new();
    };
    let state = if tracestate.len() <= TRACESTATE_LIMIT {
        tracestate.parse().unwrap_or_default()
    } else {
        TraceState::NONE
    };
    Context::new().with_remote_span_context(SpanContext::new(trace, span, flags, true, state))
}

/// Writes the context's span as the trace headers, in place of those that are there. Changes
/// nothing when the context has no span.
pub fn inject(context: &Context, headers: &mut HeaderMap) {
    let (parent, state) = inject_pair(context);
    let Ok(parent) = HeaderValue::try_from(parent) else {
        return;
    };
    if parent.is_empty() {
        return;
    }
    headers.insert(TRACEPARENT, parent);
    match HeaderValue::try_from(state) {
        Ok(state) if !state.is_empty() => headers.insert(TRACESTATE, state),
        Ok(_) | Err(_) => headers.remove(TRACESTATE),
    };
}

/// The context's span as `(traceparent, tracestate)` for a message; both empty when the context has
/// no span.
#[must_use]
pub fn inject_pair(context: &Context) -> (String, String) {
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return (String::new(), String::new());
    }
    let parent = format!(
        "00-{}-{}-{:02x}",
        span.trace_id(),
        span.span_id(),
        span.trace_flags().to_u8()
    );
    (parent, span.trace_state().header())
}

/// Makes `parent` the parent of `span`. Call it before the span is first entered or asked for its
/// context.
///
/// Nothing happens when the span is disabled, or `parent` is empty: the span then keeps the parent
/// that it has.
pub fn adopt(span: &Span, parent: &Context) {
    if span.is_disabled() || !parent.has_active_span() {
        return;
    }
    if let Err(error) = span.set_parent(parent.clone()) {
        tracing::debug!(%error, "a span could not take its remote parent");
    }
}

/// The context that the next hop should see: that of `span`, or `incoming` when nothing records
/// `span`.
///
/// A trace that its client does not sample goes on with the client's own span as parent: no one
/// will ever see ours.
#[must_use]
pub fn egress(span: &Span, incoming: &Context) -> Context {
    if span.is_disabled() {
        return incoming.clone();
    }
    let own = span.context();
    let (is_valid, is_sampled) = (
        own.span().span_context().is_valid(),
        own.span().span_context().is_sampled(),
    );
    let client = incoming.span().span_context().clone();
    let goes_on = is_valid && (is_sampled || client.is_sampled() || !client.is_valid());
    if goes_on { own } else { incoming.clone() }
}

/// Links `span` to another one that it follows from, and of which it is no child. Nothing happens
/// when either is disabled.
pub fn link(span: &Span, to: &Span) {
    if span.is_disabled() || to.is_disabled() {
        return;
    }
    span.add_link(to.context().span().span_context().clone());
}

/// `version "-" trace-id "-" parent-id "-" flags`, lowercase hexadecimal; versions after 00 may
/// append fields.
fn parse_traceparent(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let text = text.trim_matches([' ', '\t']);
    let (known, rest) = text.split_at_checked(55)?;
    let mut fields = known.split('-');
    let version = lowercase_hex(fields.next()?, 2)?;
    let trace = lowercase_hex(fields.next()?, 32)?;
    let span = lowercase_hex(fields.next()?, 16)?;
    let flags = lowercase_hex(fields.next()?, 2)?;
    let tail_fits = rest.is_empty() || (version != 0 && rest.starts_with('-'));
    if version == 0xff || trace == 0 || span == 0 || !tail_fits || fields.next().is_some() {
        return None;
    }
    let span = u64::try_from(span).ok()?;
    let flags = u8::try_from(flags).ok()?;
    Some((
        TraceId::from(trace),
        SpanId::from(span),
        TraceFlags::new(flags),
    ))
}

/// `from_str_radix` alone would take capitals and a sign too, which the standard forbids.
fn lowercase_hex(text: &str, digits: usize) -> Option<u128> {
    let well_formed = text.len() == digits
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    well_formed.then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(parent: &'static str, states: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, HeaderValue::from_static(parent));
        for state in states {
            headers.append(TRACESTATE, HeaderValue::from_static(state));
        }
        headers
    }

    #[test]
    fn a_context_survives_headers_and_messages() {
        let context = extract(&headers(PARENT, &["a=1", "b=2"]));
        let (parent, state) = inject_pair(&context);
        assert_eq!((parent.as_str(), state.as_str()), (PARENT, "a=1,b=2"));

        let mut onward = HeaderMap::new();
        inject(&extract_pair(&parent, &state), &mut onward);
        assert_eq!(onward[TRACEPARENT], PARENT);
        assert_eq!(onward[TRACESTATE], "a=1,b=2");
    }

    #[test]
    fn an_unsampled_context_is_forwarded_as_unsampled() {
        let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        assert_eq!(inject_pair(&extract_pair(unsampled, "")).0, unsampled);
    }

    #[test]
    fn malformed_parents_count_as_absent() {
        for malformed in [
            "",
            "00",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
        ] {
            assert!(
                !extract_pair(malformed, "a=1").has_active_span(),
                "{malformed}"
            );
        }
    }

    #[test]
    fn two_parents_are_ambiguous_and_count_as_absent() {
        let mut twice = headers(PARENT, &[]);
        twice.append(TRACEPARENT, HeaderValue::from_static(PARENT));
        assert!(!extract(&twice).has_active_span());
    }

    #[test]
    fn a_later_version_is_read_by_the_fields_of_this_one() {
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        assert_eq!(inject_pair(&extract_pair(later, "")).0, PARENT);
    }

    #[test]
    fn injecting_nothing_leaves_the_headers_alone() {
        let mut sent = headers(PARENT, &["a=1"]);
        inject(&Context::new(), &mut sent);
        assert_eq!(sent, headers(PARENT, &["a=1"]));
    }

    #[test]
    fn injecting_a_context_without_state_removes_a_foreign_state() {
        let mut sent = headers(
            "00-11111111111111111111111111111111-b7ad6b7169203331-01",
            &["a=1"],
        );
        inject(&extract_pair(PARENT, ""), &mut sent);
        assert_eq!(sent, headers(PARENT, &[]));
    }

    #[test]
    fn a_client_trace_passes_through_when_nothing_is_recorded() {
        let incoming = extract_pair(PARENT, "a=1");
        let unrecorded = Span::none();
        adopt(&unrecorded, &incoming);
        assert_eq!(
            inject_pair(&egress(&unrecorded, &incoming)),
            (PARENT.to_owned(), "a=1".to_owned())
        );
    }

    #[test]
    fn an_overlong_state_is_dropped_and_the_parent_kept() {
        let long = format!("a={}", "x".repeat(TRACESTATE_LIMIT));
        assert_eq!(
            inject_pair(&extract_pair(PARENT, &long)),
            (PARENT.to_owned(), String::new())
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_is_read_can_be_written(parent in ".{0,80}", state in ".{0,80}") {
            let (written, state) = inject_pair(&extract_pair(&parent, &state));
            prop_assert_eq!(inject_pair(&extract_pair(&written, &state)), (written, state));
        }

        #[test]
        fn every_valid_parent_survives(trace in 1u128.., span in 1u64.., flags: u8) {
            let parent = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
            prop_assert_eq!(inject_pair(&extract_pair(&parent, "")).0, parent);
        }
    }
}
