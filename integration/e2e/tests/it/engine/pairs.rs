//! Prefill and decode engines that meet over sockets, without a router: what is handed over, how
//! long it is kept, and what is refused.

mod concurrent;
mod disaggregated;

use std::sync::Arc;
use std::time::Duration;

use hermes_engine_sim::{
    Engine, EngineConfig, EngineHandle, Fault, PairConfig, PairNetwork, PairProtocol, PairRole,
};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::client::{client, eventually, json_of, send};

/// A prefill and a decode engine.
struct EnginePair {
    network: Arc<PairNetwork>,
    prefill: EngineHandle,
    decode: EngineHandle,
}

impl EnginePair {
    /// Engines with these changes.
    async fn start(
        protocol: PairProtocol,
        change: impl Fn(PairRole, &mut EngineConfig, &mut PairConfig),
    ) -> Self {
        let network = Arc::default();
        let engine = async |role| {
            let mut pair = PairConfig::new(role, protocol, &network);
            let mut config = EngineConfig {
                time_scale: 0.01,
                ..EngineConfig::default()
            };
            change(role, &mut config, &mut pair);
            config.pair = Some(pair);
            Engine::start(config).await.expect("starts")
        };
        let prefill = engine(PairRole::Prefill).await;
        let decode = engine(PairRole::Decode).await;
        Self {
            network,
            prefill,
            decode,
        }
    }

    async fn nixl() -> Self {
        Self::start(PairProtocol::VllmNixl, |_, _, _| {}).await
    }

    /// What the prefill engine hands over for a prompt of this many words.
    async fn prefilled(&self, words: usize) -> Value {
        let mut body = completion(words);
        body["max_tokens"] = json!(1);
        body["kv_transfer_params"] = json!({"do_remote_decode": true, "do_remote_prefill": false});
        let (status, mut answer) = ask(&self.prefill, &body).await;
        assert_eq!(status, 200, "{answer}");
        answer["kv_transfer_params"].take()
    }

    /// The status of a decode leg with these parameters.
    async fn decoded(&self, words: usize, handoff: &Value) -> u16 {
        let mut body = completion(words);
        body["kv_transfer_params"] = handoff.clone();
        ask(&self.decode, &body).await.0
    }
}

fn completion(words: usize) -> Value {
    json!({"model": "sim", "prompt": "word ".repeat(words), "max_tokens": 3})
}

async fn ask(engine: &EngineHandle, body: &Value) -> (u16, Value) {
    let url = format!("{}/v1/completions", engine.url());
    json_of(send(client().post(url).json(body)).await).await
}

#[tokio::test]
async fn a_prompt_is_taken_over_once_and_its_memory_is_freed() {
    let pair = EnginePair::nixl().await;
    let handoff = pair.prefilled(2_000).await;
    assert_eq!(pair.network.kept(), 1);
    assert!(
        pair.prefill.stats().used_blocks > 0,
        "a kept prompt is in use, as in vLLM"
    );
    assert_eq!(pair.decoded(2_000, &handoff).await, 200);
    eventually("the memory is freed", || async {
        pair.prefill.stats().used_blocks == 0
    })
    .await;
    assert_eq!((pair.network.kept(), pair.network.taken()), (0, 1));
    assert_eq!(pair.decoded(2_000, &handoff).await, 500);
    assert_eq!(pair.network.violations(), ["used_twice"]);
}

#[tokio::test]
async fn an_engine_that_does_both_is_either_half_as_a_request_asks_for_and_serves_whole_ones() {
    let both = EnginePair::start(PairProtocol::VllmNixl, |_, _, pair| {
        pair.role = PairRole::Both;
    })
    .await;
    let handoff = both.prefilled(2_000).await;
    assert_eq!(both.decoded(2_000, &handoff).await, 200);
    assert_eq!((both.network.kept(), both.network.taken()), (0, 1));
    let back = EnginePair {
        network: both.network,
        prefill: both.decode,
        decode: both.prefill,
    };
    let handoff = back.prefilled(1_000).await;
    assert_eq!(back.decoded(1_000, &handoff).await, 200);
    assert_eq!(ask(&back.decode, &completion(10)).await.0, 200);
    assert_eq!(back.network.violations(), Vec::<String>::new());
    let used_twice = back.decoded(1_000, &handoff).await;
    assert_eq!(used_twice, 500, "it checks as any decode engine");
    let mut two_tokens = completion(10);
    two_tokens["kv_transfer_params"] = json!({"do_remote_decode": true});
    assert_ne!(ask(&back.decode, &two_tokens).await.0, 200);
}

#[tokio::test]
async fn engines_that_do_both_speak_the_dialect_of_nixl_only() {
    let network = Arc::default();
    let pair = PairConfig::new(PairRole::Both, PairProtocol::Sglang, &network);
    let config = EngineConfig {
        pair: Some(pair),
        ..EngineConfig::default()
    };
    let error = Engine::start(config).await.expect_err("no such engine");
    assert!(error.to_string().contains("vllm-nixl"), "{error}");
}

#[tokio::test]
async fn what_is_not_taken_over_is_freed_when_its_lease_is_over() {
    let pair = EnginePair::start(PairProtocol::VllmNixl, |_, _, pair| {
        pair.lease = Duration::from_millis(300);
    })
    .await;
    let handoff = pair.prefilled(2_000).await;
    eventually("the memory is freed", || async {
        pair.prefill.stats().used_blocks == 0
    })
    .await;
    assert_eq!(pair.decoded(2_000, &handoff).await, 500);
    assert_eq!(pair.network.violations(), ["after_lease"]);
    let metrics = send(client().get(format!("{}/metrics", pair.prefill.url()))).await;
    let metrics = metrics.text().await.expect("text");
    for line in [
        "vllm:nixl_num_kv_expired_reqs_total{engine=\"0\",model_name=\"sim\"} 1.0",
        "sim:pair_handoffs_total{outcome=\"expired\"} 1.0",
        "sim:pair_violations_total{kind=\"after_lease\"} 0.0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let metrics = send(client().get(format!("{}/metrics", pair.decode.url()))).await;
    let metrics = metrics.text().await.expect("text");
    let violation = "sim:pair_violations_total{kind=\"after_lease\"} 1.0";
    assert!(
        metrics.contains(violation),
        "counted where the leg arrived\n{metrics}"
    );
}

#[tokio::test]
async fn a_kept_prompt_that_fills_the_memory_delays_the_next_one_until_it_is_freed() {
    let pair = EnginePair::start(PairProtocol::VllmNixl, |role, config, _| {
        config.time_scale = 0.0;
        if role == PairRole::Prefill {
            config.blocks = 5;
        }
    })
    .await;
    let first = pair.prefilled(2_000).await;
    let second = async { pair.prefilled(1_900).await };
    let take = async {
        eventually("the next prompt waits for memory", || async {
            pair.prefill.stats().waiting == 1
        })
        .await;
        pair.decoded(2_000, &first).await
    };
    let (second, taken) = tokio::join!(second, take);
    assert_eq!((taken, pair.decoded(1_900, &second).await), (200, 200));
    assert_eq!(pair.network.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn what_would_break_a_real_engine_is_refused_and_counted() {
    let pair = EnginePair::nixl().await;
    let handoff = pair.prefilled(1_000).await;
    let with = |field: &str, value: Value| {
        let mut changed = handoff.clone();
        changed[field] = value;
        changed
    };
    let unknown = with("remote_request_id", json!("cmpl-another"));
    let incomplete = with("remote_host", Value::Null);
    let mistyped = with("remote_port", json!("5600"));
    assert_eq!(pair.decoded(1_000, &unknown).await, 500);
    assert_eq!(pair.decoded(1_000, &incomplete).await, 500);
    assert_eq!(pair.decoded(1_000, &mistyped).await, 500);
    assert_eq!(pair.decoded(3_000, &handoff).await, 500);
    assert_eq!(ask(&pair.prefill, &completion(10)).await.0, 500);
    let mut kinds = pair.network.violations();
    kinds.sort();
    let expected = [
        "incomplete_parameters",
        "incomplete_parameters",
        "longer_prompt",
        "no_prefill_leg",
        "unknown_handoff",
    ];
    assert_eq!(kinds, expected);
    let (_, state) =
        json_of(send(client().get(format!("{}/sim/pairs", pair.decode.url()))).await).await;
    assert_eq!(state["violations"]["incomplete_parameters"], 2);
    assert_eq!(
        (&state["role"], &state["protocol"]),
        (&json!("decode"), &json!("vllm-nixl"))
    );
}

#[tokio::test]
async fn nixl_refuses_a_partner_of_another_release() {
    let pair = EnginePair::start(PairProtocol::VllmNixl, |role, config, _| {
        if role == PairRole::Decode {
            config.version = "0.33.0".to_owned();
        }
    })
    .await;
    let handoff = pair.prefilled(1_000).await;
    assert_eq!(pair.decoded(1_000, &handoff).await, 500);
    assert_eq!(pair.network.violations(), ["other_version"]);
    assert_eq!(pair.network.kept(), 1, "nothing was taken over");
}

#[tokio::test]
async fn a_prefill_engine_that_began_again_has_nothing_and_no_request_is_to_blame() {
    let pair = EnginePair::nixl().await;
    let handoff = pair.prefilled(1_000).await;
    pair.prefill.restart().await.expect("starts again");
    assert_eq!(pair.prefill.stats().used_blocks, 0);
    assert_eq!(pair.decoded(1_000, &handoff).await, 500);
    pair.prefill.kill().await;
    assert_eq!(pair.decoded(1_000, &handoff).await, 500);
    assert_eq!(pair.network.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_prefill_engine_that_drains_still_hands_over_what_it_keeps() {
    let pair = EnginePair::nixl().await;
    let handoff = pair.prefilled(1_000).await;
    pair.prefill.faults().set(Fault::StallBeforeHeaders);
    let open = async { pair.prefilled(10).await };
    let drain = async {
        eventually("a request is open", || async {
            pair.prefill.stats().requests == 2
        })
        .await;
        pair.prefill.stop().await;
    };
    let take = async {
        eventually("it accepts no more requests", || async {
            TcpStream::connect(pair.prefill.addr()).await.is_err()
        })
        .await;
        pair.decoded(1_000, &handoff).await
    };
    tokio::select! {
        _ = open => panic!("it is never answered"),
        () = drain => panic!("it waits for the open request"),
        status = take => assert_eq!(status, 200),
    }
}

#[tokio::test]
async fn a_client_that_leaves_during_the_transfer_frees_the_memory_of_the_prefill_engine() {
    let pair = EnginePair::start(PairProtocol::VllmNixl, |_, _, pair| {
        pair.transfer_rate = 0.1;
    })
    .await;
    let handoff = pair.prefilled(1_000).await;
    {
        let mut decoding = std::pin::pin!(pair.decoded(1_000, &handoff));
        let taken = eventually("the transfer began", || async { pair.network.taken() == 1 });
        tokio::select! {
            status = decoding.as_mut() => panic!("it takes minutes: {status}"),
            () = taken => {}
        }
        assert!(pair.prefill.stats().used_blocks > 0, "it is being read");
    }
    eventually("the memory is freed", || async {
        pair.prefill.stats().used_blocks == 0
    })
    .await;
}

#[tokio::test]
async fn two_legs_of_sglang_meet_in_a_room_and_the_prefill_engine_answers_last() {
    let pair = EnginePair::start(PairProtocol::Sglang, |_, _, _| {}).await;
    let address = pair.prefill.side_channel_addr().expect("a side channel");
    let mut body = completion(1_000);
    body["bootstrap_host"] = json!(address.ip().to_string());
    body["bootstrap_port"] = json!(address.port());
    body["bootstrap_room"] = json!(77);
    let (prefill, decode) = tokio::join!(ask(&pair.prefill, &body), ask(&pair.decode, &body));
    assert_eq!((prefill.0, decode.0), (200, 200));
    assert_eq!(pair.network.taken(), 1);
    eventually("the memory is freed", || async {
        pair.prefill.stats().used_blocks == 0
    })
    .await;
    assert_eq!(pair.network.violations(), Vec::<String>::new());
    assert_eq!(ask(&pair.decode, &body).await.0, 500);
    body.as_object_mut()
        .expect("an object")
        .remove("bootstrap_room");
    assert_eq!(ask(&pair.prefill, &body).await.0, 400);
    let mut kinds = pair.network.violations();
    kinds.sort();
    assert_eq!(kinds, ["no_room", "room_in_use"]);
}

#[tokio::test]
async fn an_sglang_prefill_leg_fails_when_its_decode_leg_leaves() {
    let pair = EnginePair::start(PairProtocol::Sglang, |role, config, _| {
        if role == PairRole::Prefill {
            // A thousand tokens take ten seconds.
            config.prefill_rate = 1.0;
            config.step_budget = 10;
        }
    })
    .await;
    let address = pair.prefill.side_channel_addr().expect("a side channel");
    let mut body = completion(200);
    body["bootstrap_host"] = json!(address.ip().to_string());
    body["bootstrap_port"] = json!(address.port());
    body["bootstrap_room"] = json!(78);
    let prefilling = ask(&pair.prefill, &body);
    let leaving = async {
        let mut decoding = std::pin::pin!(ask(&pair.decode, &body));
        let computes = eventually("the prompt is computed", || async {
            pair.prefill.stats().running == 1
        });
        tokio::select! {
            (status, _) = decoding.as_mut() => panic!("it waits: {status}"),
            () = computes => {}
        }
    };
    let (prefill, ()) = tokio::join!(prefilling, leaving);
    assert_eq!((prefill.0, pair.prefill.stats().used_blocks), (500, 0));
}
