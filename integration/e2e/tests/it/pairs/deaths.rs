//! Engines of pairs that die, each at a stage of a request, and which of the two is blamed.

use std::time::Duration;

use hermes_engine_sim::Fault;
use tokio::time::Instant;

use super::*;

/// One failure ejects an endpoint, for the rest of the test.
const STRICT: &str = "ejection: {consecutiveFailures: 1, baseTime: 10m, maxTime: 10m}";

/// Engines whose prompts take some tenths of a second, and whose five seconds for a partner that
/// is gone are half of one.
fn brisk() -> EngineConfig {
    EngineConfig {
        time_scale: 0.1,
        prefill_rate: 300.0,
        step_budget: 64,
        ..EngineConfig::default()
    }
}

/// The handoffs that decode engines were sent, in order: parameters, or a room.
fn handoffs(fleet: &PairedFleet) -> Vec<String> {
    let requests = fleet.decodes.iter().flat_map(sent);
    let handoffs = requests.filter_map(|request| {
        let body = request.json();
        let fields = [&body["kv_transfer_params"], &body["bootstrap_room"]];
        let handoff = fields.into_iter().find(|field| !field.is_null());
        handoff.map(Value::to_string)
    });
    let mut handoffs: Vec<String> = handoffs.collect();
    handoffs.sort();
    handoffs
}

/// A request in the background: the text of its answer.
fn asking(fleet: &PairedFleet, body: &Value) -> tokio::task::JoinHandle<String> {
    let (url, body) = (fleet.url(), body.clone());
    tokio::spawn(async move { text_of(&url, &body).await })
}

#[tokio::test]
async fn a_prefill_engine_that_dies_while_it_computes_is_replaced() {
    for scene in [PairedScene::nixl(2, 2), PairedScene::sglang(2, 2)] {
        let fleet = scene.engine(brisk()).start().await;
        let asking = asking(&fleet, &long_chat("dies", true));
        let computing = || {
            let mut prefills = fleet.prefills.iter();
            prefills.position(|engine| engine.stats().running == 1)
        };
        eventually("a prompt is computed", || async { computing().is_some() }).await;
        fleet.prefills[computing().expect("it is")].kill().await;
        assert!(!asking.await.expect("it is answered").is_empty());
        assert_eq!(fleet.pairs("answered").await, 1.0);
        fleet.is_clean().await;
    }
}

#[tokio::test]
async fn a_dead_prefill_engine_costs_a_request_little_time() {
    let fleet = PairedScene::nixl(2, 1).pool(STRICT).start().await;
    text_of(&fleet.url(), &long_chat("warm up", true)).await;
    fleet.prefills[0].kill().await;
    let mut longest = Duration::ZERO;
    for name in ["a", "b", "c", "d"] {
        let began = Instant::now();
        text_of(&fleet.url(), &long_chat(name, true)).await;
        longest = longest.max(began.elapsed());
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    assert_eq!(fleet.network.taken(), 5);
}

#[tokio::test]
async fn a_decode_engine_that_fails_before_a_byte_is_replaced_and_nothing_is_handed_over_twice() {
    for fault in [
        Fault::RefuseConnections,
        Fault::CloseBeforeHeaders,
        Fault::ResetBeforeHeaders,
        Fault::Status {
            code: 502,
            retry_after: None,
        },
    ] {
        for scene in [PairedScene::nixl(2, 2), PairedScene::sglang(2, 2)] {
            // All are split: an engine alone may be sent a request twice, on two connections.
            let fleet = scene.start().await;
            // Connections to reuse, on which a request may be repeated.
            for name in ["warm", "warmer", "hot"] {
                text_of(&fleet.url(), &long_chat(name, true)).await;
            }
            fleet.decodes[0].faults().set(fault.clone());
            for name in ["a", "b", "c"] {
                text_of(&fleet.url(), &long_chat(name, true)).await;
            }
            let violations = fleet.network.violations();
            assert_eq!(violations, Vec::<String>::new(), "{fault:?}");
            let mut handoffs = handoffs(&fleet);
            let count = handoffs.len();
            handoffs.dedup();
            assert_eq!(handoffs.len(), count, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_decode_engine_that_dies_mid_stream_ends_the_stream_with_an_error() {
    for scene in [PairedScene::nixl(1, 1), PairedScene::sglang(1, 1)] {
        let fleet = scene.start().await;
        fleet.decodes[0].faults().set(Fault::DieMidStream {
            after_tokens: 2,
            reset: true,
        });
        let response = send(ask(&fleet.url(), &long_chat("dies", true))).await;
        assert_eq!(response.status(), 200);
        let (pieces, is_whole) = pieces(response).await;
        let text = pieces.concat();
        assert!(!is_whole, "no part of an answer is taken for the whole");
        assert!(text.contains("upstream_died") && !text.contains("[DONE]"));
        assert_eq!(count(&fleet.prefills), [1], "nothing is sent again");
        fleet.is_clean().await;
    }
}

#[tokio::test]
async fn a_prefill_engine_that_is_gone_is_blamed_for_the_500_of_its_decode_engine() {
    let scene = PairedScene::nixl(1, 1).engine(brisk()).pool(STRICT);
    let fleet = scene.first(FirstPrefill::DeadSideChannel).start().await;
    let asking = asking(&fleet, &long_chat("gone", true));
    eventually("the decode engine looks for the KV cache", || async {
        count(&fleet.decodes) == [1]
    })
    .await;
    fleet.prefills[0].kill().await;
    assert!(!asking.await.expect("it is answered").is_empty());
    assert_eq!(count(&fleet.decodes), [2], "then it computes the prompt");
    assert_eq!(fleet.pairs("prefill_failed").await, 1.0);
    assert_eq!(fleet.pairs("decode_failed").await, 0.0);
    assert_eq!(fleet.ejections().await, 1.0, "not the decode engine");
}

#[tokio::test]
async fn a_prefill_engine_of_which_no_cache_can_be_read_is_ejected_and_no_decode_engine_is() {
    let scene = PairedScene::nixl(2, 2).engine(EngineConfig {
        time_scale: 0.01,
        ..EngineConfig::default()
    });
    let scene = scene.pool("ejection: {baseTime: 10m, maxTime: 10m}\n  retry: {budget: 1}");
    let fleet = scene.first(FirstPrefill::DeadSideChannel).start().await;
    for request in 0..24 {
        text_of(&fleet.url(), &long_chat(&format!("unread {request}"), true)).await;
    }
    assert_eq!(fleet.network.taken(), 24);
    assert_eq!(
        count(&fleet.prefills)[0],
        3,
        "it is ejected by its third failure"
    );
    assert_eq!(fleet.ejections().await, 1.0);
}

#[tokio::test]
async fn a_decode_engine_that_answers_500_is_ejected_and_prefill_engines_come_back() {
    let scene = PairedScene::nixl(2, 2).pool("ejection: {baseTime: 200ms, maxTime: 200ms}");
    let fleet = scene.pool("retry: {budget: 1}").start().await;
    fleet.decodes[0].faults().set(Fault::Status {
        code: 500,
        retry_after: None,
    });
    for request in 0..24 {
        text_of(&fleet.url(), &long_chat(&format!("broken {request}"), true)).await;
    }
    let asked = count(&fleet.decodes)[0];
    assert!(asked <= 8, "it is ejected, and tried again: {asked} of 24");
    fleet.decodes[0].faults().clear();
    let before = count(&fleet.prefills);
    eventually("both prefill engines serve", || async {
        text_of(
            &fleet.url(),
            &long_chat(&format!("sound {:?}", Instant::now()), true),
        )
        .await;
        let after = count(&fleet.prefills);
        after[0] > before[0] && after[1] > before[1]
    })
    .await;
    assert_eq!(fleet.network.violations(), Vec::<String>::new());
}
