//! Pairs of TensorRT-LLM's servers.

use hermes_engine_sim::Fault;

use super::failures::{
    BROKEN, BUSY, answered_after_a_failed_decode, left_during_the_prefill, three_answered_beside,
};
use super::*;

impl PairedScene {
    fn trtllm(prefills: usize, decodes: usize) -> Self {
        let protocol = Some(PairProtocol::Trtllm);
        Self::of("trtllm", protocol, [prefills, decodes])
    }
}

/// A completion with a prompt of about a thousand tokens.
fn long_completion() -> Value {
    json!({"model": "sim", "max_tokens": 5, "prompt": "word ".repeat(1_000)})
}

async fn completed(url: &str) -> String {
    let request = crate::client::client().post(format!("{url}/v1/completions"));
    let (status, answer) = json_of(send(request.json(&long_completion())).await).await;
    assert_eq!(status, 200, "{answer}");
    let text = answer["choices"][0]["text"].as_str();
    text.expect("a text").to_owned()
}

#[tokio::test]
async fn a_pair_answers_as_one_engine_does_and_takes_over_what_was_prefilled() {
    let fleet = PairedScene::trtllm(1, 1)
        .keys("minUncachedTokens: 0")
        .start()
        .await;
    texts_are_those_of_one_engine(&fleet).await;
    let alone = Engine::start(instant()).await.expect("starts");
    assert_eq!(completed(&fleet.url()).await, completed(&alone.url()).await);
    assert_eq!(fleet.network.violations(), Vec::<String>::new());
    assert_eq!((fleet.network.taken(), fleet.network.kept()), (5, 0));
    assert_eq!(fleet.pairs("answered").await, 5.0);
    let (context, generation) = (sent(&fleet.prefills[0]), sent(&fleet.decodes[0]));
    assert_eq!((context.len(), generation.len()), (5, 5));
    for (context, generation) in context.iter().zip(&generation) {
        assert_eq!(context.json()["max_tokens"], 5, "the limit is the client's");
        let id = |leg: &RecordedRequest| {
            leg.json()["disaggregated_params"]["disagg_request_id"].as_u64()
        };
        assert!(id(context).is_some_and(|id| id >= 1 << 62));
        assert_eq!(id(context), id(generation));
    }
}

#[tokio::test]
async fn an_answer_that_ended_with_its_first_token_has_no_generation_leg() {
    let scene = PairedScene::trtllm(1, 1).first(FirstPrefill::EndsAtOnce);
    let fleet = scene.keys("minUncachedTokens: 0").start().await;
    let mut texts = Vec::new();
    for stream in [false, true] {
        let mut body = long_chat("ends", stream);
        if stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        let response = send(ask(&fleet.url(), &body)).await;
        assert_eq!(response.status(), 200);
        let answer = response.text().await.expect("whole");
        assert!(!answer.contains("disaggregated_params"), "{answer}");
        assert!(!answer.contains("prompt_token_ids"), "{answer}");
        let events: Vec<&str> = answer.lines().filter(|line| !line.is_empty()).collect();
        let (text, usage): (Value, Value) = if stream {
            let [chunk, usage, done] = events[..] else {
                panic!("three events: {answer}");
            };
            assert_eq!(done, "data: [DONE]");
            let json = |event: &str| serde_json::from_str::<Value>(&event[6..]).expect("JSON");
            let chunk = json(chunk);
            assert_eq!(chunk["object"], "chat.completion.chunk");
            let text = chunk["choices"][0]["delta"]["content"].clone();
            (text, json(usage)["usage"].clone())
        } else {
            let answer: Value = serde_json::from_str(&answer).expect("JSON");
            let text = answer["choices"][0]["message"]["content"].clone();
            (text, answer["usage"].clone())
        };
        assert_eq!(usage["completion_tokens"], 1);
        texts.push(text);
    }
    assert_eq!(texts[0], texts[1]);
    assert_eq!(
        (count(&fleet.prefills), count(&fleet.decodes)),
        (vec![2], vec![0])
    );
    assert_eq!(fleet.pairs("answered").await, 2.0);
    eventually("nothing is booked", || async {
        bookings(&fleet).await == 0.0
    })
    .await;
    assert_eq!(fleet.network.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_context_server_that_fails_is_followed_by_another_one() {
    for fault in [BUSY, BROKEN, Fault::CloseBeforeHeaders] {
        let fleet = three_answered_beside(fault.clone(), PairedScene::trtllm(2, 1), true).await;
        assert_eq!(fleet.network.taken(), 3, "{fault:?}");
    }
}

#[tokio::test]
async fn a_request_is_prefilled_again_when_its_generation_server_fails() {
    let fleet = answered_after_a_failed_decode(PairedScene::trtllm(2, 1)).await;
    assert_eq!(count(&fleet.prefills), [1, 1]);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_context_leg() {
    left_during_the_prefill(PairedScene::trtllm(1, 1)).await;
}

#[tokio::test]
async fn requests_of_other_apis_go_to_the_generation_server_alone() {
    let fleet = PairedScene::trtllm(1, 1).start().await;
    let body = json!({"model": "sim", "max_output_tokens": 3, "input": "word ".repeat(1_000)});
    let request = crate::client::client().post(format!("{}/v1/responses", fleet.url()));
    assert_eq!(send(request.json(&body)).await.status(), 200);
    assert_eq!(
        (count(&fleet.prefills), count(&fleet.decodes)),
        (vec![0], vec![1])
    );
}

#[tokio::test]
async fn what_a_client_sets_of_a_handoff_reaches_no_server() {
    let fleet = PairedScene::trtllm(1, 1).start().await;
    let mut body = long_chat("hostile", false);
    body["disaggregated_params"] = json!({"request_type": "evil"});
    body["prompt_token_ids"] = json!([666]);
    text_of(&fleet.url(), &body).await;
    assert_eq!(fleet.network.violations(), Vec::<String>::new());
    for engine in [&fleet.prefills[0], &fleet.decodes[0]] {
        let text = String::from_utf8_lossy(&sent(engine)[0].body).into_owned();
        assert!(!text.contains("evil") && !text.contains("[666]"), "{text}");
    }
}
