//! Two engines, one of which serves nothing: nearly all clients get an answer, whatever it answers
//! and however endpoints are chosen.

use std::fmt::Write;

use futures::{StreamExt, stream};
use hermes_bench::fleet::{Fleet, control_plane, proxy};
use hermes_control_plane::{app::ConfigSource, config::Config};
use hermes_testkit::scripted_engine::{ScriptedAnswer, ScriptedEngine, ScriptedRequest};
use reqwest::Client;
use serde_json::json;

use super::{good_engine, is_post, served};
use crate::client::{client, eventually, send};

/// What the bad engine answers, by name.
const BAD: [&str; 12] = [
    "400",
    "401",
    "404",
    "429",
    "503",
    "500",
    "error-event",
    "json-error",
    "empty",
    "done-only",
    "garbage",
    "closed",
];

const REQUESTS: usize = 100;

fn bad_answer(kind: &str, request: &ScriptedRequest) -> ScriptedAnswer {
    let json = &["content-type: application/json"];
    let events = &["content-type: text/event-stream"];
    let error = "{\"error\":{\"message\":\"no\",\"type\":\"Error\",\"code\":500}}";
    match kind {
        "400" => ScriptedAnswer::whole("400 Bad Request", json, error),
        "401" => ScriptedAnswer::whole("401 Unauthorized", json, "{\"error\":\"Unauthorized\"}"),
        "404" => ScriptedAnswer::whole("404 Not Found", json, "{\"detail\":\"Not Found\"}"),
        "429" => ScriptedAnswer::whole("429 Too Many Requests", &["retry-after: 30"], ""),
        "503" => ScriptedAnswer::whole("503 Service Unavailable", json, error),
        "500" => ScriptedAnswer::whole("500 Internal Server Error", json, error),
        "error-event" => {
            let event = format!("data: {error}\n\ndata: [DONE]\n\n");
            ScriptedAnswer::whole("200 OK", events, &event)
        }
        "json-error" => ScriptedAnswer::whole("200 OK", json, error),
        "empty" => ScriptedAnswer::whole("200 OK", json, ""),
        "done-only" => ScriptedAnswer::whole("200 OK", events, "data: [DONE]\n\n"),
        "garbage" => ScriptedAnswer::whole("200 OK", &[], "<html>sign in</html>"),
        "closed" => ScriptedAnswer::closed(),
        _ => served(request),
    }
}

/// A pool for each kind of bad answer, named after it, of one bad and one good engine.
struct Pairs {
    fleet: Fleet,
    _engines: Vec<ScriptedEngine>,
}

impl Pairs {
    async fn start(strategy: &str) -> Self {
        let (mut yaml, mut engines) = ("pools:\n".to_owned(), Vec::new());
        for kind in BAD {
            let script =
                |request: &ScriptedRequest| is_post(request).then(|| bad_answer(kind, request));
            let bad = ScriptedEngine::start(&[kind], script).await;
            let pair = [bad.expect("a free port"), good_engine(&[kind]).await];
            let [bad, good] = [pair[0].url(), pair[1].url()];
            writeln!(
                yaml,
                "- {{name: p{kind}, models: ['{kind}'], endpoints: ['{bad}', '{good}'], \
                 strategy: {strategy}, scoreDeadline: 5s}}"
            )
            .expect("a string");
            engines.extend(pair);
        }
        let config = ConfigSource::Value(Config::parse(&yaml).expect("valid"));
        let control = control_plane(config.clone()).await.expect("starts");
        let proxy = proxy(&[control.bound.grpc]).await.expect("starts");
        let fleet = Fleet {
            engines: Vec::new(),
            kv_manager: None,
            control_planes: vec![control],
            proxies: vec![proxy],
            config,
        };
        eventually("every pool is known", || async {
            served_true(&client(), &fleet.url(), BAD[0], 0)
                .await
                .is_some()
        })
        .await;
        Self {
            fleet,
            _engines: engines,
        }
    }
}

/// Whether a client got a true answer; `None` while the proxy has no pool.
async fn served_true(client: &Client, url: &str, model: &str, number: usize) -> Option<bool> {
    let question = format!("{} {}", number % 7, "what does a router do? ".repeat(40));
    let body = json!({
        "model": model, "stream": number.is_multiple_of(2), "max_tokens": 1,
        "messages": [{"role": "user", "content": question}],
    });
    let url = format!("{url}/v1/chat/completions");
    let response = send(client.post(url).json(&body)).await;
    let status = response.status();
    let text = response.text().await.unwrap_or_default();
    if text.contains("model_not_found") || text.contains("not_ready") {
        return None;
    }
    Some(status == 200 && text.contains("\"content\":\"true\""))
}

async fn nearly_all_get_an_answer(strategy: &str) {
    let pairs = Pairs::start(strategy).await;
    let (client, url) = (client(), pairs.fleet.url());
    let mut failed = Vec::new();
    for kind in BAD {
        let answers = stream::iter(0..REQUESTS)
            .map(|number| served_true(&client, &url, kind, number))
            .buffer_unordered(3);
        let served = answers
            .filter(|served| std::future::ready(*served == Some(true)))
            .count()
            .await;
        if served < REQUESTS * 95 / 100 {
            failed.push(format!("{kind}: {served} of {REQUESTS}"));
        }
    }
    assert!(failed.is_empty(), "{strategy}: {failed:?}");
}

#[tokio::test]
async fn nearly_all_get_an_answer_under_round_robin() {
    nearly_all_get_an_answer("round-robin").await;
}

#[tokio::test]
async fn nearly_all_get_an_answer_under_random() {
    nearly_all_get_an_answer("random").await;
}

#[tokio::test]
async fn nearly_all_get_an_answer_under_least_request() {
    nearly_all_get_an_answer("least-request").await;
}

#[tokio::test]
async fn nearly_all_get_an_answer_under_power_of_two() {
    nearly_all_get_an_answer("power-of-two").await;
}

#[tokio::test]
async fn nearly_all_get_an_answer_under_session_affinity() {
    nearly_all_get_an_answer("session-affinity").await;
}

#[tokio::test]
async fn nearly_all_get_an_answer_under_prefix_cache() {
    nearly_all_get_an_answer("prefix-cache").await;
}

#[tokio::test]
async fn nearly_all_get_an_answer_under_kv_aware() {
    nearly_all_get_an_answer("kv-aware").await;
}

#[tokio::test]
async fn nearly_all_get_an_answer_under_hermes_classic() {
    nearly_all_get_an_answer("hermes-classic").await;
}
