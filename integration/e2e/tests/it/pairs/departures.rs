//! Clients that leave at each stage of a pair's request: both legs end soon, and nothing stays
//! booked.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use super::*;

/// An engine cancels what its client left within 200 ms; a busy machine gets more.
const SOON: Duration = Duration::from_secs(1);

/// Waits for what the departure of a client leads to.
async fn soon(what: &'static str, is_so: impl Fn() -> bool) {
    let (left, is_so) = (Instant::now(), &is_so);
    eventually(what, || async move { is_so() }).await;
    let took = left.elapsed();
    assert!(took < SOON, "{what}: {took:?}");
}

/// Decode engines that generate one answer at a time, slowly.
fn one_seat() -> EngineConfig {
    EngineConfig {
        max_running: 1,
        ..EngineConfig::default()
    }
}

/// A chat whose answer has this many tokens.
fn answered_with(tokens: u32, name: &str) -> Value {
    let mut body = long_chat(name, true);
    body["max_tokens"] = json!(tokens);
    body
}

/// Sends a request and reads the first piece of its answer.
async fn begun(fleet: &PairedFleet, body: &Value) -> reqwest::Response {
    let mut response = send(ask(&fleet.url(), body)).await;
    assert_eq!(response.status(), 200);
    response.chunk().await.expect("open").expect("a piece");
    response
}

#[tokio::test]
async fn a_client_that_leaves_while_its_decode_leg_is_queued_cancels_it() {
    let fleet = PairedScene::nixl(1, 1).engine(one_seat()).start().await;
    let staying = begun(&fleet, &answered_with(2_000, "stays")).await;
    let leaving = tokio::spawn(send(ask(&fleet.url(), &answered_with(9, "leaves"))));
    eventually("the decode leg is queued", || async {
        fleet.decodes[0].stats().waiting == 1
    })
    .await;
    leaving.abort();
    soon("its decode leg is cancelled", || {
        fleet.decodes[0].stats().waiting == 0
    })
    .await;
    assert_eq!(fleet.decodes[0].stats().running, 1, "the other one goes on");
    drop(staying);
    fleet.is_clean().await;
}

#[tokio::test]
async fn a_client_that_leaves_during_the_transfer_cancels_the_decode_leg() {
    let scene = PairedScene::nixl(1, 1).engine(EngineConfig::default());
    let fleet = scene.transfer_rate(10.0).start().await;
    let leaving = tokio::spawn(send(ask(&fleet.url(), &long_chat("leaves", true))));
    eventually("the KV cache is on its way", || async {
        fleet.network.receiving() == 1
    })
    .await;
    leaving.abort();
    soon("the transfer ends", || fleet.network.receiving() == 0).await;
    assert_eq!(fleet.network.taken(), 1);
    assert_eq!(fleet.decodes[0].stats().running, 0);
    fleet.is_clean().await;
}

#[tokio::test]
async fn a_client_that_leaves_during_the_stream_cancels_it() {
    for scene in [PairedScene::nixl(1, 1), PairedScene::sglang(1, 1)] {
        let fleet = scene.engine(EngineConfig::default()).start().await;
        let response = begun(&fleet, &answered_with(2_000, "leaves")).await;
        let stream = response.bytes_stream();
        assert_eq!(stream.take(2).count().await, 2);
        soon("its answer is cancelled", || {
            let stats = fleet.decodes[0].stats();
            stats.aborted == 1 && stats.running == 0
        })
        .await;
        fleet.is_clean().await;
    }
}
