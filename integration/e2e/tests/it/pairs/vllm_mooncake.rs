//! Pairs of vLLM's `MooncakeConnector`.

use std::sync::atomic::{AtomicUsize, Ordering};

use hermes_engine_sim::Fault;

use super::failures::{
    BROKEN, BUSY, answered_after_a_failed_decode, left_during_both_legs, three_answered_beside,
};
use super::*;
use crate::client::client;

impl PairedScene {
    fn mooncake(prefills: usize, decodes: usize) -> Self {
        let protocol = Some(PairProtocol::VllmMooncake);
        Self::of("vllm-mooncake", protocol, [prefills, decodes])
    }
}

#[tokio::test]
async fn a_pair_answers_as_one_engine_does_and_transfers_what_was_prefilled() {
    let fleet = PairedScene::mooncake(1, 1)
        .keys("minUncachedTokens: 0")
        .start()
        .await;
    texts_are_those_of_one_engine(&fleet).await;
    fleet.nothing_is_left().await;
    assert_eq!(fleet.network.taken(), 4);
    assert_eq!(fleet.pairs("answered").await, 4.0);
    let (prefill, decode) = (sent(&fleet.prefills[0]), sent(&fleet.decodes[0]));
    assert_eq!((prefill.len(), decode.len()), (4, 4));
    let mut transfers = Vec::new();
    for prefill in &prefill {
        assert_eq!(prefill.json()["max_tokens"], 1);
        let params = &prefill.json()["kv_transfer_params"];
        transfers.push(params["transfer_id"].clone());
    }
    for decode in &decode {
        let params = &decode.json()["kv_transfer_params"];
        assert!(transfers.contains(&params["transfer_id"]), "{params}");
        assert_eq!(decode.header("x-data-parallel-rank"), None);
    }
}

#[tokio::test]
async fn requests_go_to_every_rank_of_a_prefill_engine_and_the_clients_rank_to_none() {
    let engine = EngineConfig {
        data_parallel: 2,
        ..instant()
    };
    let fleet = PairedScene::mooncake(1, 1).engine(engine).start().await;
    for name in 0..12 {
        let body = long_chat(&name.to_string(), false);
        let request = ask(&fleet.url(), &body).header("x-data-parallel-rank", "7");
        assert_eq!(send(request).await.status(), 200);
    }
    fleet.nothing_is_left().await;
    let ranks = sent(&fleet.prefills[0]);
    let ranks = ranks.iter().map(|leg| leg.header("x-data-parallel-rank"));
    let mut ranks: Vec<_> = ranks.flatten().collect();
    assert_eq!(ranks.len(), 12);
    ranks.sort_unstable();
    ranks.dedup();
    assert_eq!(ranks, ["0", "1"]);
}

#[tokio::test]
async fn the_usage_has_the_cached_tokens_of_the_prefill_engine() {
    let scene = PairedScene::mooncake(1, 1).keys("minUncachedTokens: 0");
    let fleet = scene.start().await;
    let alone = Engine::start(instant()).await.expect("starts");
    let cached = |url: String, stream: bool| async move {
        let mut body = long_chat("cached", stream);
        if stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        let answer = send(ask(&url, &body)).await.text().await.expect("whole");
        let (_, after) = answer
            .split_once("\"cached_tokens\":")
            .expect("it states them");
        let digits = after.split(|byte: char| !byte.is_ascii_digit()).next();
        digits.expect("a number").to_owned()
    };
    for stream in [false, true, false] {
        let stated = cached(fleet.url(), stream).await;
        assert_eq!(stated, cached(alone.url(), stream).await, "{stream}");
    }
    assert_ne!(
        cached(fleet.url(), true).await,
        "0",
        "of the second request on"
    );
    assert_eq!(fleet.pairs("answered").await, 4.0);
}

#[tokio::test]
async fn other_apis_are_split_as_well() {
    let scene = PairedScene::mooncake(1, 1).keys("minUncachedTokens: 0");
    let fleet = scene.start().await;
    let prompt = "word ".repeat(1_000);
    let messages = json!([{"role": "user", "content": prompt}]);
    for (path, body) in [
        (
            "completions",
            json!({"model": "sim", "max_tokens": 3, "prompt": prompt}),
        ),
        (
            "responses",
            json!({"model": "sim", "max_output_tokens": 3, "input": prompt}),
        ),
        (
            "messages",
            json!({"model": "sim", "max_tokens": 3, "messages": messages}),
        ),
    ] {
        let request = client().post(format!("{}/v1/{path}", fleet.url()));
        assert_eq!(send(request.json(&body)).await.status(), 200, "{path}");
    }
    assert_eq!(fleet.pairs("answered").await, 3.0);
    fleet.nothing_is_left().await;
}

#[tokio::test]
async fn the_decode_engine_computes_a_prompt_whose_prefill_stopped_and_transfers_nothing() {
    let scene = PairedScene::mooncake(1, 1).first(FirstPrefill::EndsAtOnce);
    let fleet = scene.keys("minUncachedTokens: 0").start().await;
    texts_are_those_of_one_engine(&fleet).await;
    fleet.nothing_is_left().await;
    assert_eq!(
        (fleet.network.taken(), fleet.pairs("answered").await),
        (0, 4.0)
    );
    // A first decode leg may be cut off before the engine has read it.
    let plain = sent(&fleet.decodes[0])
        .into_iter()
        .filter(|leg| leg.json()["kv_transfer_params"].is_null());
    assert_eq!(plain.count(), 4, "each is asked again, without parameters");
    eventually("nothing is booked", || async {
        bookings(&fleet).await == 0.0
    })
    .await;
}

#[tokio::test]
async fn the_failure_of_a_prefill_ends_the_decode_leg_and_another_pair_answers() {
    for fault in [BUSY, BROKEN, Fault::CloseBeforeHeaders] {
        let fleet = three_answered_beside(fault.clone(), PairedScene::mooncake(2, 1), true).await;
        assert_eq!(fleet.network.taken(), 3, "{fault:?}");
    }
}

#[tokio::test]
async fn a_request_is_prefilled_again_when_its_decode_engine_fails() {
    answered_after_a_failed_decode(PairedScene::mooncake(2, 1)).await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_both_legs() {
    left_during_both_legs(PairedScene::mooncake(1, 1)).await;
}

#[tokio::test]
async fn a_prefill_engine_that_starts_again_is_paired_by_its_new_name() {
    let fleet = PairedScene::mooncake(1, 1).start().await;
    text_of(&fleet.url(), &long_chat("before", true)).await;
    fleet.prefills[0].kill().await;
    stated::ranks_are_known(&fleet.proxy, 0).await;
    fleet.prefills[0].restart().await.expect("its port is free");
    let sent_after = AtomicUsize::new(0);
    eventually("it is paired again", || async {
        let name = format!("after {}", sent_after.fetch_add(1, Ordering::Relaxed));
        let text = text_of(&fleet.url(), &long_chat(&name, true)).await;
        assert!(!text.is_empty(), "no request fails");
        fleet.network.taken() >= 2
    })
    .await;
    let violations = fleet.network.violations();
    assert_eq!(violations, Vec::<String>::new(), "no old name is used");
}

#[tokio::test]
async fn a_proxy_pairs_by_itself_while_the_control_plane_is_away() {
    let mut fleet = PairedScene::mooncake(2, 2).start().await;
    fleet.control.take().expect("it runs").stop().await;
    for name in ["a", "b", "c"] {
        text_of(&fleet.url(), &long_chat(name, true)).await;
    }
    assert_eq!(fleet.pairs("answered").await, 3.0);
    fleet.nothing_is_left().await;
}
