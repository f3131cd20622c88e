//! vLLM's `NixlConnector`: the prefill engine keeps what it has computed, and answers with the
//! parameters by which a decode engine reads it.

use serde::Deserialize;

use super::engine::PairEngine;
use super::fields::LegFields;
use super::kept_caches::ComputedPrompt;
use super::side_channel;
use super::violation::PairViolation;
use super::{LegFailure, PairLeg};

#[derive(Deserialize, Default)]
#[serde(default)]
struct TransferParams {
    do_remote_decode: bool,
    do_remote_prefill: bool,
    remote_engine_id: Option<String>,
    remote_request_id: Option<String>,
    remote_host: Option<String>,
    remote_port: Option<u16>,
}

/// A request at a prefill engine.
pub(super) fn prefill(fields: &LegFields<'_>) -> Result<PairLeg, LegFailure> {
    let params: TransferParams = fields.transfer_params()?.unwrap_or_default();
    let asks = params.do_remote_decode && !params.do_remote_prefill;
    if !asks || !fields.is_for_one_token() {
        return Err(PairViolation::NoPrefillLeg.into());
    }
    Ok(PairLeg {
        is_prefill: true,
        ..PairLeg::default()
    })
}

/// A request at an engine that does both: a prefill leg if it asks for one, else as at a decode
/// engine.
pub(super) async fn either(
    engine: &PairEngine,
    fields: &LegFields<'_>,
) -> Result<PairLeg, LegFailure> {
    let params: Option<TransferParams> = fields.transfer_params()?;
    if params.is_some_and(|params| params.do_remote_decode) {
        prefill(fields)
    } else {
        decode(engine, fields).await
    }
}

/// A request at a decode engine: waits for the KV cache. Without parameters the engine computes the
/// prompt itself.
pub(super) async fn decode(
    engine: &PairEngine,
    fields: &LegFields<'_>,
) -> Result<PairLeg, LegFailure> {
    let Some(params) = fields.transfer_params()? else {
        return Ok(PairLeg::default());
    };
    let TransferParams {
        do_remote_prefill: true,
        remote_engine_id: Some(engine_id),
        remote_request_id: Some(handoff),
        remote_host: Some(host),
        remote_port: Some(port),
        ..
    } = params
    else {
        return Err(PairViolation::IncompleteParameters.into());
    };
    side_channel::take_over(engine, (&host, port), handoff, engine_id).await
}

/// Keeps a prompt, and returns the parameters by which it can be taken, as vLLM 0.32 writes them.
pub(super) fn keep(engine: &PairEngine, prompt: ComputedPrompt, request: &str) -> String {
    let tokens = prompt.tokens;
    let handoff = engine.keep(prompt, request);
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let PairEngine { port, identity, .. } = engine;
    format!(
        r#"{{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[10,11]],"remote_engine_id":{},"remote_request_id":{},"remote_host":{},"remote_port":{port},"tp_size":1,"dcp_size":1,"pp_size":1,"remote_num_tokens":{tokens},"remote_blocks_expiry_time":null,"transfer_mode":"pull","remote_prefill_cached_tokens":0}}"#,
        quoted(&identity.engine_id),
        quoted(&handoff),
        quoted(&engine.host),
    )
}
