//! Prefill engines that accept a request and never answer it: they use up a share of its time, and
//! another placement has the rest.

use std::time::Duration;

use hermes_engine_sim::Fault;
use tokio::time::Instant;

use super::*;

/// What a stream has for its first token in these scenes.
const FIRST_BYTE: &str = "timeouts: {firstByte: 2s}";

/// A share of it.
const SHARE: Duration = Duration::from_secs(1);

/// Sends a request whose first prefill leg stalls, whichever engine gets it. Returns the text of
/// the answer, and how long it took.
async fn text_after_a_stall(fleet: &PairedFleet, body: &Value) -> (String, Duration) {
    let sound = fleet.prefills.iter().map(EngineHandle::faults);
    sound.for_each(|faults| faults.set(Fault::StallBeforeHeaders));
    let (url, asked, began) = (fleet.url(), body.clone(), Instant::now());
    let asking = tokio::spawn(async move { text_of(&url, &asked).await });
    eventually("a prefill engine has the request", || async {
        count(&fleet.prefills).iter().sum::<usize>() == 1
    })
    .await;
    fleet
        .prefills
        .iter()
        .for_each(|engine| engine.faults().clear());
    (asking.await.expect("it is answered"), began.elapsed())
}

#[tokio::test]
async fn a_prefill_engine_that_stalls_leaves_time_for_another_pair() {
    for scene in [PairedScene::nixl(2, 2), PairedScene::sglang(2, 2)] {
        let fleet = scene.pool(FIRST_BYTE).start().await;
        let body = long_chat("stalls", true);
        let (text, took) = text_after_a_stall(&fleet, &body).await;
        let alone = Engine::start(instant()).await.expect("starts");
        assert_eq!(text, text_of(&alone.url(), &body).await);
        assert!(took >= SHARE, "{took:?}");
        assert_eq!(count(&fleet.prefills), [1, 1]);
        assert_eq!(
            [
                fleet.pairs("prefill_failed").await,
                fleet.pairs("answered").await
            ],
            [1.0, 1.0]
        );
        fleet.is_clean().await;
    }
}

#[tokio::test]
async fn a_decode_engine_computes_the_prompt_of_a_request_whose_only_prefill_engine_stalls() {
    let fleet = PairedScene::nixl(1, 1).pool(FIRST_BYTE).start().await;
    let (_, took) = text_after_a_stall(&fleet, &long_chat("stalls", true)).await;
    assert!(took >= SHARE, "{took:?}");
    assert!(sent(&fleet.decodes[0])[0].json()["kv_transfer_params"].is_null());
    fleet.is_clean().await;
}

#[tokio::test]
async fn the_last_placement_of_a_request_has_all_of_its_time() {
    let scene = PairedScene::sglang(1, 1).pool("timeouts: {firstByte: 300ms}");
    let fleet = scene.start().await;
    fleet.prefills[0].faults().set(Fault::StallBeforeHeaders);
    let began = Instant::now();
    let response = send(ask(&fleet.url(), &long_chat("stalls", true))).await;
    assert_eq!(response.status(), 504);
    assert!(began.elapsed() >= Duration::from_millis(300));
    fleet.is_clean().await;
}

#[tokio::test]
async fn a_prefill_engine_that_stalls_often_gets_no_requests() {
    let scene = PairedScene::nixl(2, 1).pool(
        "timeouts: {firstByte: 400ms}\n  ejection: {consecutiveFailures: 1, baseTime: 10m, maxTime: 10m}",
    );
    let fleet = scene.start().await;
    fleet.prefills[0].faults().set(Fault::StallBeforeHeaders);
    for name in ["a", "b", "c", "d", "e"] {
        text_of(&fleet.url(), &long_chat(name, true)).await;
    }
    assert!(count(&fleet.prefills)[0] <= 1, "it is ejected at once");
    assert_eq!(sent(&fleet.decodes[0]).len(), 5);
}
