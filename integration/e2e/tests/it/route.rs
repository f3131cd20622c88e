//! Routing of requests, and local replies of the proxy.

use std::{collections::BTreeSet, sync::Arc};

use hermes_bench::fleet::{Fleet, Scene, instant};
use hermes_engine_sim::{EngineConfig, EngineHandle, RecordedRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::client::{ask, chat, client, eventually, json_of, metric, send};

/// Requests that each engine answered.
fn shares(fleet: &Fleet) -> Vec<u64> {
    fleet
        .engines
        .iter()
        .map(|engine| engine.stats().requests)
        .collect()
}

/// What clients sent to the engine; the collector's own questions come by GET.
fn sent(engine: &EngineHandle) -> Vec<Arc<RecordedRequest>> {
    engine
        .requests()
        .into_iter()
        .filter(|seen| seen.method == http::Method::POST)
        .collect()
}

async fn models(fleet: &Fleet) -> BTreeSet<String> {
    let (_, list) = json_of(send(client().get(format!("{}/v1/models", fleet.url()))).await).await;
    list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|model| Some(model["id"].as_str()?.to_owned()))
        .collect()
}

async fn knows_models(fleet: &Fleet, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
    eventually("the models of the engines are listed", || async {
        models(fleet).await == expected
    })
    .await;
}

#[tokio::test]
async fn a_chat_is_answered_by_an_engine_and_keeps_its_request_id() {
    let fleet = Scene::of(1, "round-robin").start().await.expect("starts");
    let response = send(chat(&fleet.url(), false, 4).header("x-request-id", "scenario-1")).await;
    assert_eq!(response.headers()["x-request-id"], "scenario-1");
    let (status, body) = json_of(response).await;
    assert_eq!(status, 200);
    assert_eq!(body["usage"]["completion_tokens"], 4);
    assert_eq!(
        sent(&fleet.engines[0])[0].header("x-request-id"),
        Some("scenario-1")
    );
}

#[tokio::test]
async fn round_robin_takes_turns() {
    let fleet = Scene::of(3, "round-robin").start().await.expect("starts");
    for _ in 0..9 {
        assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 200);
    }
    assert_eq!(shares(&fleet), [3, 3, 3]);
}

#[tokio::test]
async fn every_strategy_serves_and_counts_the_level_of_its_selections() {
    for (strategy, level) in [
        ("random", "strategy"),
        ("power-of-two", "strategy"),
        ("session-affinity", "strategy"),
        ("least-request", "score"),
        ("kv-aware", "score"),
    ] {
        let fleet = Scene::of(2, strategy).start().await.expect("starts");
        for _ in 0..4 {
            assert_eq!(
                send(chat(&fleet.url(), false, 1)).await.status(),
                200,
                "{strategy}"
            );
        }
        let series = format!("hermes_endpoint_selections_total{{pool=\"chat\",level=\"{level}\"}}");
        assert_eq!(
            metric(&fleet.proxies[0].admin_url(), &series).await,
            4.0,
            "{strategy}"
        );
    }
}

#[tokio::test]
async fn a_session_stays_on_its_endpoint() {
    let fleet = Scene::of(4, "session-affinity")
        .start()
        .await
        .expect("starts");
    for _ in 0..12 {
        send(chat(&fleet.url(), false, 1).header("x-session-id", "alice")).await;
    }
    let mut shares = shares(&fleet);
    shares.sort_unstable();
    assert_eq!(shares, [0, 0, 0, 12]);
}

#[tokio::test]
async fn bytes_of_the_body_arrive_as_the_client_wrote_them() {
    let fleet = Scene::of(1, "kv-aware").start().await.expect("starts");
    let body = "{ \"model\" : \"sim\",\n \"x_unknown\": [1.50, null],\t\"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9\"}] , \"max_tokens\":1}";
    let request = client().post(format!("{}/v1/chat/completions", fleet.url()));
    let response = send(
        request
            .header("content-type", "application/json")
            .body(body),
    )
    .await;
    assert_eq!(response.status(), 200);
    assert_eq!(sent(&fleet.engines[0])[0].body, body.as_bytes());
}

#[tokio::test]
async fn control_fields_and_headers_of_clients_never_reach_an_engine() {
    let fleet = Scene::of(1, "round-robin").start().await.expect("starts");
    let body = json!({
        "model": "sim", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}],
        "kv_transfer_params": {"do_remote_prefill": true, "remote_host": "10.0.0.1"}, "bootstrap_room": 7,
    });
    let request = ask(&fleet.url(), &body)
        .header("x-prefiller-host-port", "10.0.0.1:80")
        .header("x-override-rid", "1");
    assert_eq!(
        send(request.header("x-data-parallel-rank", "3"))
            .await
            .status(),
        200
    );
    let seen = &sent(&fleet.engines[0])[0];
    assert_eq!(seen.json().get("kv_transfer_params"), None);
    assert_eq!(seen.json().get("bootstrap_room"), None);
    assert_eq!(seen.json()["messages"], body["messages"]);
    for name in [
        "x-prefiller-host-port",
        "x-override-rid",
        "x-data-parallel-rank",
    ] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn the_original_prefix_and_misspelling_are_served() {
    let fleet = Scene::of(1, "round-robin").start().await.expect("starts");
    for path in [
        "/rest/hermes-router/v1beta1/v1/chat/completons",
        "/rest/hermes-router/v1beta1/v1/chat/completions",
    ] {
        let body = json!({"model": "sim", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]});
        let (status, _) =
            json_of(send(client().post(format!("{}{path}", fleet.url())).json(&body)).await).await;
        assert_eq!(status, 200, "{path}");
    }
    assert!(
        sent(&fleet.engines[0])
            .iter()
            .all(|seen| seen.uri.path() == "/v1/chat/completions")
    );
}

#[tokio::test]
async fn models_of_the_engines_and_their_adapters_are_listed_once() {
    let engines = vec![
        EngineConfig {
            loras: vec!["sql-lora".into()],
            ..instant()
        },
        instant(),
    ];
    let fleet = Scene {
        engines,
        ..Scene::of(0, "round-robin")
    }
    .start()
    .await
    .expect("starts");
    knows_models(&fleet, &["sim", "sql-lora"]).await;
    let (status, one) =
        json_of(send(client().get(format!("{}/v1/models/sql-lora", fleet.url()))).await).await;
    assert_eq!((status, one["parent"].as_str()), (200, Some("sim")));
}

#[tokio::test]
async fn requests_for_an_adapter_go_to_an_engine_that_has_it_loaded() {
    let engines = vec![
        instant(),
        EngineConfig {
            loras: vec!["sql-lora".into()],
            ..instant()
        },
        instant(),
    ];
    let fleet = Scene {
        engines,
        ..Scene::of(0, "round-robin")
    }
    .start()
    .await
    .expect("starts");
    knows_models(&fleet, &["sim", "sql-lora"]).await;
    let body = json!({"model": "sql-lora", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]});
    for _ in 0..6 {
        assert_eq!(send(ask(&fleet.url(), &body)).await.status(), 200);
    }
    assert_eq!(shares(&fleet), [0, 6, 0]);
}

#[tokio::test]
async fn an_unknown_model_is_a_404_that_names_the_nearest() {
    let fleet = Scene::of(1, "round-robin").start().await.expect("starts");
    knows_models(&fleet, &["sim"]).await;
    let (status, body) =
        json_of(send(ask(&fleet.url(), &json!({"model": "sin", "messages": []}))).await).await;
    assert_eq!(status, 404);
    assert_eq!(body["error"]["code"], "model_not_found");
    assert_eq!(body["error"]["param"], "model");
    assert_eq!(
        body["error"]["message"],
        "the model `sin` does not exist; did you mean sim?"
    );
    assert_eq!(shares(&fleet), [0]);
}

#[tokio::test]
async fn a_request_without_a_model_goes_to_the_only_pool() {
    let fleet = Scene::of(1, "round-robin").start().await.expect("starts");
    let (status, body) = json_of(
        send(
            client()
                .post(format!("{}/tokenize", fleet.url()))
                .json(&json!({"prompt": "hello"})),
        )
        .await,
    )
    .await;
    assert_eq!(status, 200);
    assert!(
        body["count"].as_u64().is_some_and(|count| count > 0),
        "{body}"
    );
}

#[tokio::test]
async fn local_replies_have_the_format_of_openai_errors() {
    let scene = Scene {
        top: "limits: {maxBodyBytes: 2000}\n".into(),
        ..Scene::of(1, "round-robin")
    };
    let fleet = scene.start().await.expect("starts");
    let post =
        |path: &str, body: String| client().post(format!("{}{path}", fleet.url())).body(body);
    let cases: Vec<(reqwest::RequestBuilder, u16, &str)> = vec![
        (
            post("/v1/chat/completions", "{\"model\":".into()),
            400,
            "invalid_body",
        ),
        (
            post("/v1/chat/completions", "[]".into()),
            400,
            "invalid_body",
        ),
        (
            post("/v1/chat/completions", "x".repeat(2001)),
            413,
            "request_too_large",
        ),
        (
            post("/v1/chat/completions", "{}".into()).header("x-large", "x".repeat(70_000)),
            431,
            "headers_too_large",
        ),
        (
            post("/reset_prefix_cache", String::new()),
            404,
            "unknown_url",
        ),
        (
            client().get(format!("{}/v1/chat/completions", fleet.url())),
            405,
            "method_not_allowed",
        ),
        (
            client().get(format!("{}/v1/responses/resp_1", fleet.url())),
            404,
            "response_not_found",
        ),
    ];
    for (request, status, code) in cases {
        assert_error(send(request).await, status, code).await;
    }
    assert_eq!(shares(&fleet), [0]);
}

async fn assert_error(response: reqwest::Response, status: u16, code: &str) {
    assert!(response.headers().contains_key("x-request-id"), "{code}");
    let (found, body) = json_of(response).await;
    assert_eq!(
        (found, &body["error"]["code"]),
        (status, &Value::from(code))
    );
    assert!(
        body["error"]["message"]
            .as_str()
            .is_some_and(|message| !message.is_empty()),
        "{code}"
    );
}

#[tokio::test]
async fn a_request_over_the_limit_gets_retry_after() {
    let engines = vec![EngineConfig::default()];
    let scene = Scene {
        engines,
        top: "limits: {maxConcurrent: 2}\n".into(),
        ..Scene::of(0, "round-robin")
    };
    let fleet = scene.start().await.expect("starts");
    let streams = [
        send(chat(&fleet.url(), true, 10_000)).await,
        send(chat(&fleet.url(), true, 10_000)).await,
    ];
    let response = send(chat(&fleet.url(), false, 1)).await;
    assert!(response.headers().contains_key("retry-after"));
    let (status, body) = json_of(response).await;
    assert_eq!(
        (status, body["error"]["code"].as_str()),
        (429, Some("rate_limit_exceeded"))
    );
    drop(streams);
    eventually("their places are free again", || async {
        send(chat(&fleet.url(), false, 1)).await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn an_engines_own_errors_pass_through_untouched() {
    let fleet = Scene::of(2, "round-robin").start().await.expect("starts");
    let body =
        json!({"model": "sim", "max_tokens": -1, "messages": [{"role": "user", "content": "hi"}]});
    let (status, answer) = json_of(send(ask(&fleet.url(), &body)).await).await;
    assert_eq!(status, 400);
    assert_eq!(answer["error"]["type"], "BadRequestError");
    assert_eq!(
        shares(&fleet).iter().sum::<u64>(),
        1,
        "a client's mistake is not repeated elsewhere"
    );
}

#[tokio::test]
async fn a_response_is_continued_and_read_at_the_engine_that_created_it() {
    let fleet = Scene::of(4, "round-robin").start().await.expect("starts");
    let url = format!("{}/v1/responses", fleet.url());
    let create = |body: Value| send(client().post(&url).json(&body));
    let (status, made) =
        json_of(create(json!({"model": "sim", "input": "hi", "max_output_tokens": 2})).await).await;
    assert_eq!(status, 200, "{made}");
    let id = made["id"].as_str().expect("an id").to_owned();
    let before = shares(&fleet);
    for _ in 0..5 {
        let body = json!({"model": "sim", "input": "go on", "previous_response_id": id, "max_output_tokens": 2});
        create(body).await;
    }
    let after = shares(&fleet);
    let grown: Vec<u64> = before
        .iter()
        .zip(&after)
        .map(|(before, after)| after - before)
        .filter(|&n| n > 0)
        .collect();
    assert_eq!(grown, [5]);
}

#[tokio::test]
async fn another_proxy_finds_the_engine_that_created_a_response() {
    let fleet = Scene {
        proxies: 2,
        ..Scene::of(4, "round-robin")
    }
    .start()
    .await
    .expect("starts");
    let url = |proxy: usize| format!("{}/v1/responses", fleet.proxies[proxy].url());
    let create = |proxy: usize, body: Value| send(client().post(url(proxy)).json(&body));
    let (_, made) = json_of(
        create(
            0,
            json!({"model": "sim", "input": "hi", "max_output_tokens": 2}),
        )
        .await,
    )
    .await;
    let id = made["id"].as_str().expect("an id").to_owned();
    let maker = shares(&fleet)
        .iter()
        .position(|&requests| requests > 0)
        .expect("an engine made it");
    // The report of the first request may take a few milliseconds to reach the control plane.
    let read = format!("{}/{id}", url(1));
    eventually("the other proxy knows where it lives", || async {
        let (_, body) = json_of(send(client().get(&read)).await).await;
        body["error"]["code"] != "response_not_found"
    })
    .await;
    let before = shares(&fleet)[maker];
    for _ in 0..4 {
        let body = json!({"model": "sim", "input": "go on", "previous_response_id": id, "max_output_tokens": 2});
        create(1, body).await;
    }
    assert_eq!(shares(&fleet)[maker] - before, 4);
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served_on_the_same_port() {
    let fleet = Scene::of(1, "round-robin").start().await.expect("starts");
    let stream = TcpStream::connect(fleet.proxies[0].bound.listen)
        .await
        .expect("accepts");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("speaks HTTP/2");
    let driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let body =
        json!({"model": "sim", "max_tokens": 2, "messages": [{"role": "user", "content": "hi"}]});
    let request = http::Request::post(format!("{}/v1/chat/completions", fleet.url()))
        .header("content-type", "application/json")
        .body(http_body_util::Full::new(bytes::Bytes::from(
            body.to_string(),
        )))
        .expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(
        (response.version(), response.status().as_u16()),
        (http::Version::HTTP_2, 200)
    );
    drop(driver);
}
