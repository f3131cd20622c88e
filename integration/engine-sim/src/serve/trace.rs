//! The engine's part of a trace: one span a request, as vLLM writes it with
//! `--otlp-traces-endpoint`.
//!
//! It continues the context that the router sent, and lasts until the last token, or until the
//! client has left. Without an exporter every span here is disabled. No prompt is an attribute.

use hermes_runtime::propagation;
use hermes_runtime::telemetry::TRACE_TARGET;
use tracing::{Span, info_span};

use crate::api::generation::Generation;
use crate::journal::RecordedRequest;

/// The span of a generation that has begun; it ends when it is dropped.
pub(crate) fn begin(request: &RecordedRequest, generation: &Generation) -> Span {
    let usage = generation.usage();
    let span = info_span!(
        target: TRACE_TARGET,
        "llm_request",
        otel.kind = "server",
        gen_ai.request.id = generation.id,
        gen_ai.response.model = &*generation.params.model,
        gen_ai.request.n = generation.choices.len() as i64,
        gen_ai.request.max_tokens = i64::from(generation.output_tokens),
        gen_ai.usage.prompt_tokens = usage.prompt_tokens as i64,
    );
    propagation::adopt(&span, &propagation::extract(&request.headers));
    span
}
