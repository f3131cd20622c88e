//! What an engine shows of its part in pairs: `/sim/pairs`, and series at `/metrics`.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Response, StatusCode};

use super::context::EngineContext;
use super::page::{Label, Page};
use super::reply::{Body, detail, json};
use crate::pair::{PairEngine, PairProtocol};

/// Answers `/sim/pairs`.
pub(crate) fn state(context: &EngineContext) -> Response<Body> {
    let Some(pair) = &context.pair else {
        let problem = "this engine has no part in pairs: start it with --role and --protocol";
        return detail(StatusCode::NOT_FOUND, problem);
    };
    let violations = pair.violations.all().filter(|(_, count)| *count > 0);
    let violations: BTreeMap<_, _> = violations
        .map(|(violation, count)| (violation.kind(), count))
        .collect();
    let state = serde_json::json!({
        "role": pair.role,
        "protocol": pair.protocol,
        "version": pair.identity.version,
        "handoffs": pair.handoffs(),
        "violations": violations,
    });
    json(StatusCode::OK, &state)
}

/// Answers `/server_info`, as far as SGLang states its part in pairs there.
pub(crate) fn server_info(context: &EngineContext) -> Response<Body> {
    let is_asked = |pair: &&Arc<PairEngine>| pair.protocol == PairProtocol::Sglang;
    let Some(pair) = context.pair.as_ref().filter(is_asked) else {
        return detail(StatusCode::NOT_FOUND, "Not Found");
    };
    let info = serde_json::json!({
        "model_path": context.config.model,
        "disaggregation_mode": pair.role,
        "disaggregation_bootstrap_port": pair.port(),
        "version": pair.identity.version,
    });
    json(StatusCode::OK, &info)
}

/// The series of an engine that has a part in pairs.
pub(crate) fn exposition(context: &EngineContext, overrides: BTreeMap<String, f64>) -> String {
    let Some(pair) = &context.pair else {
        return String::new();
    };
    let mut page = Page::new(0, &context.config.model, context.started, overrides);
    render(&mut page, pair);
    page.into_text()
}

fn render(page: &mut Page, pair: &PairEngine) {
    let handoffs = pair.handoffs();
    if pair.protocol == PairProtocol::VllmNixl {
        page.counter(
            "vllm:nixl_num_kv_expired_reqs",
            "Number of requests that had their KV expire. NOTE: This metric is tracked on the P instance.",
            &[(Label::None, handoffs.expired)],
        );
    }
    let kinds = pair.violations.all();
    let kinds: Vec<_> = kinds
        .map(|(violation, count)| (format!("kind=\"{}\"", violation.kind()), count))
        .collect();
    let series: Vec<_> = kinds
        .iter()
        .map(|(labels, count)| (Label::Whole(labels), *count))
        .collect();
    page.counter(
        "sim:pair_violations",
        "Requests that broke the protocol of a prefill/decode pair.",
        &series,
    );
    page.counter(
        "sim:pair_handoffs",
        "KV caches that were kept for decode engines, by what became of them.",
        &[
            (Label::Whole("outcome=\"taken\""), handoffs.taken),
            (Label::Whole("outcome=\"expired\""), handoffs.expired),
        ],
    );
    page.gauge(
        "sim:pair_handoffs_kept",
        "KV caches that are kept for decode engines now.",
        &[(Label::None, handoffs.kept as f64)],
    );
}
