//! What passes a gateway is measured as what passes the proxy itself.

use hermes_bench::fleet::Scene;
use serde_json::{Value, json};

use super::{ended, gateway::chat, of_models, slow, start};
use crate::client::{eventually, metric};

#[tokio::test]
async fn a_chat_is_sent_where_the_picker_says_and_its_usage_is_counted() {
    let (fleet, gateway) = start(Scene::of(2, "kv-aware")).await;
    let (status, body) = gateway.serve(&chat(false, 7)).await;
    assert_eq!(status, 200);
    let answer: Value = serde_json::from_str(&body).expect("the engine's answer, whole");
    let admin = fleet.proxies[0].admin_url();
    eventually("the request has ended", || async {
        ended(&admin, "ok").await == 1.0
    })
    .await;
    let tokens = of_models(&admin, "hermes_tokens_total", ",kind=\"completion\"").await;
    assert_eq!(tokens, 7.0);
    assert_eq!(answer["usage"]["completion_tokens"], 7);
    let served: u64 = fleet
        .engines
        .iter()
        .map(|engine| engine.stats().requests)
        .sum();
    assert_eq!(served, 1, "nothing but the gateway sends it");
}

#[tokio::test]
async fn the_first_token_of_a_stream_is_seen_as_it_passes() {
    let (fleet, gateway) = start(Scene::of(1, "kv-aware")).await;
    let (status, events) = gateway.serve(&chat(true, 5)).await;
    assert_eq!(status, 200);
    assert!(events.ends_with("data: [DONE]\n\n"), "{events}");
    let admin = fleet.proxies[0].admin_url();
    eventually("the request has ended", || async {
        ended(&admin, "ok").await == 1.0
    })
    .await;
    let first = of_models(&admin, "hermes_time_to_first_token_seconds_count", "").await;
    assert_eq!(first, 1.0);
    let passed = "hermes_picker_streams_total{end=\"served\"}";
    assert_eq!(metric(&admin, passed).await, 1.0);
}

#[tokio::test]
async fn the_next_turn_of_a_chat_goes_where_its_prompt_is_cached() {
    let (fleet, gateway) = start(slow(4)).await;
    let question = "why does a router keep what it has learned of caches? ".repeat(60);
    let turn = |answer: &str| {
        json!({"model": "sim", "max_tokens": 1, "messages": [
            {"role": "user", "content": question}, {"role": "assistant", "content": answer},
        ]})
    };
    for answer in ["first", "second", "third", "fourth"] {
        assert_eq!(gateway.serve(&turn(answer)).await.0, 200);
    }
    let served = fleet.engines.iter().map(|engine| engine.stats().requests);
    assert_eq!(served.max(), Some(4), "one engine has the prompt");
}

#[tokio::test]
async fn an_error_of_an_engine_is_the_clients_and_counts_as_one() {
    let (fleet, gateway) = start(Scene::of(1, "round-robin")).await;
    let wrong =
        json!({"model": "sim", "messages": [{"role": "user", "content": "x"}], "max_tokens": -1});
    let (status, _) = gateway.serve(&wrong).await;
    assert_eq!(status, 400);
    let admin = fleet.proxies[0].admin_url();
    eventually("the request has ended", || async {
        ended(&admin, "client_error").await == 1.0
    })
    .await;
}
