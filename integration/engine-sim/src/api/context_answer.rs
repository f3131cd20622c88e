//! The answer of a context server of TensorRT-LLM, made of what the engine answers otherwise.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Collected, Either};
use serde_json::{Value, json};

use super::reply::{Body, raw_json};

/// The parameters of the handoff in its choice, and the prompt as tokens beside it.
/// `finish_reason`: why it ends.
pub(crate) async fn of(response: Response<Body>, finish_reason: &str) -> Response<Body> {
    let Either::Left(body) = response.into_body() else {
        return raw_json(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new());
    };
    let body = body.collect().await.map(Collected::to_bytes);
    let mut answer: Value = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
    let removed = |from: &mut Value, name| from.as_object_mut()?.remove(name);
    let params = removed(&mut answer, "kv_transfer_params");
    let choice = &mut answer["choices"][0];
    choice["disaggregated_params"] = json!(params);
    choice["finish_reason"] = json!(finish_reason);
    // A completion has it in its choice.
    if let Some(tokens) = removed(choice, "prompt_token_ids") {
        answer["prompt_token_ids"] = tokens;
    }
    raw_json(StatusCode::OK, answer.to_string())
}
