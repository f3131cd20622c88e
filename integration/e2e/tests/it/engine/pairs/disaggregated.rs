//! Servers of TensorRT-LLM: what is handed over, and what is refused.

use super::*;

const ID: u64 = 1 << 62;

impl EnginePair {
    async fn trtllm() -> Self {
        Self::start(PairProtocol::Trtllm, |_, _, _| {}).await
    }

    /// The answer to a context leg with this id.
    async fn context(&self, id: u64) -> (u16, Value) {
        let mut body = completion(1_000);
        body["disaggregated_params"] =
            json!({"request_type": "context_only", "disagg_request_id": id});
        ask(&self.prefill, &body).await
    }

    /// The status of a generation leg that takes over what this answer has, as it is changed.
    async fn generated(&self, answer: &Value, change: impl Fn(&mut Value)) -> u16 {
        let mut body = completion(1_000);
        body["prompt"] = answer["prompt_token_ids"].clone();
        body["disaggregated_params"] = answer["choices"][0]["disaggregated_params"].clone();
        body["disaggregated_params"]["request_type"] = json!("generation_only");
        change(&mut body);
        ask(&self.decode, &body).await.0
    }
}

#[tokio::test]
async fn a_prompt_is_taken_over_once_by_its_parameters_and_tokens() {
    let pair = EnginePair::trtllm().await;
    let (status, answer) = pair.context(ID).await;
    assert_eq!(status, 200);
    assert_eq!(answer["choices"][0]["finish_reason"], "not_finished");
    let tokens = answer["prompt_token_ids"].as_array().expect("a list");
    assert_eq!(json!(tokens.len()), answer["usage"]["prompt_tokens"]);
    assert_eq!(pair.generated(&answer, |_| {}).await, 200);
    assert_eq!((pair.network.kept(), pair.network.taken()), (0, 1));
    assert_eq!(pair.generated(&answer, |_| {}).await, 500);
    assert_eq!(pair.network.violations(), ["used_twice"]);
}

#[tokio::test]
async fn what_a_server_would_refuse_or_confuse_is_refused_and_counted() {
    let pair = EnginePair::trtllm().await;
    assert_eq!(
        pair.context(7).await.0,
        500,
        "it is one of the server's own"
    );
    let (_, answer) = pair.context(ID).await;
    assert_eq!(pair.context(ID).await.0, 500, "an id is for once");
    let text = |body: &mut Value| body["prompt"] = json!("word");
    assert_eq!(pair.generated(&answer, text).await, 500);
    let no_id = |body: &mut Value| body["disaggregated_params"]["ctx_request_id"].take();
    assert_eq!(pair.generated(&answer, |body| drop(no_id(body))).await, 500);
    assert_eq!(ask(&pair.prefill, &completion(10)).await.0, 500);
    let mut kinds = pair.network.violations();
    kinds.sort();
    let expected = [
        "incomplete_parameters",
        "incomplete_parameters",
        "incomplete_parameters",
        "no_prefill_leg",
        "room_in_use",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(pair.generated(&answer, |_| {}).await, 200);
}
