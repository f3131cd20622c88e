//! What may be sent again, and how long an endpoint may take.

use std::time::Duration;

use hermes_bench::fleet::Scene;
use hermes_testkit::scripted_engine::{ScriptedAnswer, ScriptedEngine};

use super::{in_front_of, is_post, served};
use crate::client::{ask, chat, client, send};

#[tokio::test]
async fn what_may_not_be_repeated_is_sent_once() {
    let breaks = || {
        ScriptedEngine::start(&["sim"], |request| {
            is_post(request).then(ScriptedAnswer::closed)
        })
    };
    for (path, body) in [
        ("/generate", serde_json::json!({"text": "a"})),
        (
            "/v1/responses",
            serde_json::json!({"model": "sim", "input": "a", "background": true}),
        ),
        (
            "/v1/responses",
            serde_json::json!({"model": "sim", "input": "a", "store": true}),
        ),
    ] {
        let engines = [breaks().await, breaks().await].map(|engine| engine.expect("a free port"));
        let mut scene = Scene {
            endpoints: engines.iter().map(ScriptedEngine::url).collect(),
            ..Scene::of(0, "round-robin")
        };
        scene.top = "extraPaths: [/generate]\n".to_owned();
        let fleet = scene.start().await.expect("starts");
        let url = format!("{}{path}", fleet.url());
        let response = send(client().post(url).json(&body)).await;
        assert_eq!(response.status(), 502, "{path}");
        let sent: usize = engines.iter().map(ScriptedEngine::requests).sum();
        assert_eq!(sent, 1, "{path}");
    }
}

#[tokio::test]
async fn the_time_of_the_clients_upload_is_not_the_endpoints() {
    let engine = ScriptedEngine::start(&["sim"], |request| {
        let mut answer = served(request);
        answer.pieces[0].0 = Duration::from_millis(500);
        is_post(request).then_some(answer)
    });
    let engine = engine.await.expect("a free port");
    let fleet = in_front_of(&[&engine.url()], "  timeouts: {request: 1s}\n").await;
    let whole = ask(
        &fleet.url(),
        &serde_json::json!({"model": "sim", "messages": []}),
    );
    let whole = whole.build().expect("valid");
    let bytes = whole
        .body()
        .and_then(reqwest::Body::as_bytes)
        .expect("bytes")
        .to_vec();
    let halves = [bytes[..4].to_vec(), bytes[4..].to_vec()];
    let slow = futures::stream::iter(halves);
    let slow = futures::StreamExt::then(slow, |half| async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        Ok::<_, std::io::Error>(half)
    });
    let url = format!("{}/v1/chat/completions", fleet.url());
    let request = client().post(url).body(reqwest::Body::wrap_stream(slow));
    assert_eq!(send(request).await.status(), 200);
}

#[tokio::test]
async fn an_answer_that_dribbles_is_over_at_its_deadline() {
    let engine = ScriptedEngine::start(&["sim"], |request| {
        let mut answer = ScriptedAnswer::whole("200 OK", &[], &format!("{{{}}}", " ".repeat(98)));
        let head = answer.pieces.remove(0).1;
        let (head, body) = head.split_at(head.len() - 100);
        answer.pieces = vec![(Duration::ZERO, head.to_vec())];
        let byte = |byte: &u8| (Duration::from_millis(200), vec![*byte]);
        answer.pieces.extend(body.iter().map(byte));
        is_post(request).then_some(answer)
    });
    let engine = engine.await.expect("a free port");
    let fleet = in_front_of(&[&engine.url()], "  timeouts: {request: 1s}\n").await;
    let began = tokio::time::Instant::now();
    let response = send(chat(&fleet.url(), false, 1)).await;
    assert_eq!(response.status(), 504);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "20 s of dribbling"
    );
}
