//! Servers of TensorRT-LLM: the context server keeps what it has computed, and answers with the
//! parameters by which a generation server reads it, and with the prompt as tokens.

use serde::Deserialize;
use serde_json::json;

use super::engine::PairEngine;
use super::fields::LegFields;
use super::kept_caches::ComputedPrompt;
use super::side_channel;
use super::violation::PairViolation;
use super::{LegFailure, PairLeg, PairRole};

/// Ids below are those of requests that servers number themselves.
const FIRST_ID: u64 = 1 << 40;

#[derive(Default, Deserialize)]
#[serde(default)]
struct DisaggregatedParams {
    request_type: String,
    disagg_request_id: Option<u64>,
    ctx_request_id: Option<u64>,
    encoded_opaque_state: Option<String>,
    ctx_info_endpoint: Option<String>,
}

/// A request at a context server.
pub(super) fn context(engine: &PairEngine, fields: &LegFields<'_>) -> Result<PairLeg, LegFailure> {
    let params: DisaggregatedParams = fields.disaggregated_params()?.unwrap_or_default();
    let id = params.disagg_request_id.filter(|id| *id >= FIRST_ID);
    if params.request_type != "context_only" || fields.stream == Some(true) {
        return Err(PairViolation::NoPrefillLeg.into());
    }
    let id = id.ok_or(PairViolation::IncompleteParameters)?;
    engine.rooms.enter(id, PairRole::Prefill)?;
    Ok(PairLeg {
        is_prefill: true,
        context: Some(id),
        ..PairLeg::default()
    })
}

/// A request at a generation server: waits for the KV cache. Without parameters the server computes
/// the prompt itself.
pub(super) async fn generation(
    engine: &PairEngine,
    fields: &LegFields<'_>,
) -> Result<PairLeg, LegFailure> {
    let Some(params) = fields.disaggregated_params::<DisaggregatedParams>()? else {
        return Ok(PairLeg::default());
    };
    let is_generation = params.request_type == "generation_only";
    let DisaggregatedParams {
        disagg_request_id: Some(_),
        ctx_request_id: Some(_),
        encoded_opaque_state: Some(handoff),
        ctx_info_endpoint: Some(endpoint),
        ..
    } = params
    else {
        return Err(PairViolation::IncompleteParameters.into());
    };
    let address = side_channel::address(&endpoint);
    let (Some(address), true, true) = (address, is_generation, fields.has_prompt_tokens()) else {
        return Err(PairViolation::IncompleteParameters.into());
    };
    let (handoff, engine_id) = handoff.split_once('@').unwrap_or((&handoff, ""));
    let (handoff, engine_id) = (handoff.to_owned(), engine_id.to_owned());
    side_channel::take_over(engine, address, handoff, engine_id).await
}

/// Keeps a prompt, and returns the parameters by which it can be taken, as TensorRT-LLM writes
/// them. Where the answer ends with its first token, nothing is kept.
pub(super) fn keep(engine: &PairEngine, id: u64, prompt: ComputedPrompt, request: &str) -> String {
    let handoff = if engine.ends_at_once {
        String::new()
    } else {
        engine.keep(prompt, request)
    };
    let PairEngine {
        host,
        port,
        identity,
        ..
    } = engine;
    json!({
        "request_type": "context_only",
        "first_gen_tokens": [7],
        "ctx_request_id": id,
        "encoded_opaque_state": format!("{handoff}@{}", identity.engine_id),
        "draft_tokens": null,
        "disagg_request_id": id,
        "ctx_dp_rank": 0,
        "ctx_info_endpoint": format!("tcp://{host}:{port}"),
        "schedule_style": null,
        "ctx_usage": null,
    })
    .to_string()
}
