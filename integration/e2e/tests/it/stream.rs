//! Streams: relayed piece by piece, ended as the engine ended them, cancelled when the client
//! disconnects.

use std::time::Duration;

use futures::StreamExt;
use hermes_bench::fleet::{Fleet, Scene, instant};
use hermes_engine_sim::{EngineConfig, Fault};
use tokio::time::timeout;

use crate::client::{chat, client, eventually, metric, pieces, send};

/// An engine that takes its time: about 10 ms a token.
fn unhurried() -> EngineConfig {
    EngineConfig::default()
}

async fn requests(fleet: &Fleet, outcome: &str) -> f64 {
    let series =
        format!("hermes_requests_total{{pool=\"chat\",model=\"sim\",outcome=\"{outcome}\"}}");
    metric(&fleet.proxies[0].admin_url(), &series).await
}

async fn ends_as(fleet: &Fleet, outcome: &'static str) {
    eventually(outcome, || async { requests(fleet, outcome).await == 1.0 }).await;
}

async fn knows_the_model(fleet: &Fleet) {
    let url = format!("{}/v1/models", fleet.url());
    eventually("the model is known", || async {
        client()
            .get(&url)
            .send()
            .await
            .expect("answers")
            .text()
            .await
            .expect("text")
            .contains("sim")
    })
    .await;
}

#[tokio::test]
async fn tokens_arrive_one_by_one_and_the_stream_ends_as_the_engine_ended_it() {
    let scene = Scene {
        engines: vec![unhurried()],
        ..Scene::of(0, "kv-aware")
    };
    let fleet = scene.start().await.expect("starts");
    knows_the_model(&fleet).await;
    let response = send(chat(&fleet.url(), true, 8)).await;
    assert_eq!(
        response.headers()["content-type"],
        "text/event-stream; charset=utf-8"
    );
    let (pieces, whole) = pieces(response).await;
    assert!(whole);
    assert!(
        pieces.len() >= 8,
        "tokens were not passed on one by one: {} pieces",
        pieces.len()
    );
    assert!(pieces.concat().ends_with("data: [DONE]\n\n"));
    ends_as(&fleet, "ok").await;
}

#[tokio::test]
async fn the_first_token_is_passed_on_while_the_last_is_not_made() {
    let scene = Scene {
        engines: vec![unhurried()],
        ..Scene::of(0, "round-robin")
    };
    let fleet = scene.start().await.expect("starts");
    fleet.engines[0]
        .faults()
        .set(Fault::StallMidStream { after_tokens: 2 });
    let mut stream = send(chat(&fleet.url(), true, 50)).await.bytes_stream();
    let first = timeout(Duration::from_secs(5), stream.next())
        .await
        .expect("in time")
        .expect("a piece");
    assert!(first.expect("bytes").starts_with(b"data: "));
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_engines_work() {
    let scene = Scene {
        engines: vec![unhurried()],
        ..Scene::of(0, "kv-aware")
    };
    let fleet = scene.start().await.expect("starts");
    knows_the_model(&fleet).await;
    let mut stream = send(chat(&fleet.url(), true, 100_000)).await.bytes_stream();
    stream.next().await.expect("a piece").expect("bytes");
    assert_eq!(fleet.engines[0].stats().running, 1);
    drop(stream);
    eventually("the engine is idle", || async {
        fleet.engines[0].stats().running == 0
    })
    .await;
    assert_eq!(fleet.engines[0].stats().aborted, 1);
    ends_as(&fleet, "cancelled").await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_cancels_the_engines_work_too() {
    let scene = Scene {
        engines: vec![unhurried()],
        ..Scene::of(0, "kv-aware")
    };
    let fleet = scene.start().await.expect("starts");
    knows_the_model(&fleet).await;
    let waiting = tokio::spawn(chat(&fleet.url(), false, 100_000).send());
    eventually("the engine works", || async {
        fleet.engines[0].stats().running == 1
    })
    .await;
    waiting.abort();
    eventually("the engine is idle", || async {
        fleet.engines[0].stats().running == 0
    })
    .await;
    ends_as(&fleet, "cancelled").await;
}

#[tokio::test]
async fn a_stream_whose_engine_dies_does_not_end_properly() {
    for reset in [true, false] {
        let fleet = Scene::of(1, "round-robin").start().await.expect("starts");
        knows_the_model(&fleet).await;
        fleet.engines[0].faults().set(Fault::DieMidStream {
            after_tokens: 3,
            reset,
        });
        let (pieces, whole) = pieces(send(chat(&fleet.url(), true, 20)).await).await;
        assert!(!whole, "the stream must be cut off");
        let text = pieces.concat();
        assert!(!text.contains("[DONE]"), "{text}");
        assert!(
            text.contains("upstream_died"),
            "the stream has an error event: {text}"
        );
        ends_as(&fleet, "truncated").await;
    }
}

#[tokio::test]
async fn a_stalled_stream_ends_after_the_idle_timeout() {
    let mut scene = Scene::of(1, "round-robin");
    scene.pool.push_str("  timeouts: {idle: 1s}\n");
    let fleet = scene.start().await.expect("starts");
    knows_the_model(&fleet).await;
    fleet.engines[0]
        .faults()
        .set(Fault::StallMidStream { after_tokens: 2 });
    let (_, whole) = pieces(send(chat(&fleet.url(), true, 20)).await).await;
    assert!(!whole);
    ends_as(&fleet, "timed_out").await;
}

#[tokio::test]
async fn connections_to_engines_are_reused() {
    let fleet = Scene::of(1, "round-robin").start().await.expect("starts");
    // One connection of a client stays with one worker, whose connections are its own.
    let client = client();
    for stream in [true, false, true, false, true] {
        let (_, chat) = chat(&fleet.url(), stream, 3).build_split();
        let chat = chat.expect("a request");
        let response = client.execute(chat).await.expect("an answer");
        response.bytes().await.expect("a whole answer");
    }
    let opened = metric(
        &fleet.proxies[0].admin_url(),
        "hermes_endpoint_connections_opened_total",
    )
    .await;
    assert_eq!(opened, 1.0);
}

#[tokio::test]
async fn a_connection_that_the_engine_closed_while_idle_fails_no_request() {
    let engine = EngineConfig {
        keep_alive: Duration::from_millis(30),
        ..instant()
    };
    let fleet = Scene {
        engines: vec![engine],
        ..Scene::of(0, "round-robin")
    }
    .start()
    .await
    .expect("starts");
    for _ in 0..5 {
        assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 200);
        // The collector's connections come and go too; what matters is that none is left from the
        // request.
        eventually("the engine has closed its idle connections", || async {
            fleet.engines[0].stats().open_connections == 0
        })
        .await;
    }
    assert_eq!(requests(&fleet, "failed").await, 0.0);
}

#[tokio::test]
async fn usage_is_counted_as_the_engine_reports_it() {
    let fleet = Scene::of(1, "round-robin").start().await.expect("starts");
    knows_the_model(&fleet).await;
    let response = send(chat(&fleet.url(), false, 7)).await;
    let usage: serde_json::Value = response.json().await.expect("JSON");
    let prompt = usage["usage"]["prompt_tokens"].as_f64().expect("a count");
    let admin = fleet.proxies[0].admin_url();
    for (kind, tokens) in [("prompt", prompt), ("completion", 7.0)] {
        let series = format!("hermes_tokens_total{{pool=\"chat\",model=\"sim\",kind=\"{kind}\"}}");
        eventually("tokens are counted", || async {
            metric(&admin, &series).await == tokens
        })
        .await;
    }
}
