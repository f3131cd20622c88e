//! Engines of vLLM's `MooncakeConnector`: transfers, and what is refused.

use reqwest::RequestBuilder;

use super::*;

impl EnginePair {
    async fn mooncake() -> Self {
        Self::start(PairProtocol::VllmMooncake, |_, _, _| {}).await
    }

    /// Its bootstrap server.
    fn bootstrap(&self) -> String {
        let address = self.prefill.side_channel_addr();
        format!("http://{}", address.expect("a side channel"))
    }

    /// The engine id of the prefill engine's only rank, as its bootstrap server states it.
    async fn engine_id(&self) -> String {
        let page = client().get(format!("{}/query", self.bootstrap()));
        let (status, ranks) = json_of(send(page).await).await;
        assert_eq!(status, 200);
        assert!(ranks["0"]["worker_addr"]["0"]["0"].is_string(), "{ranks}");
        ranks["0"]["engine_id"].as_str().expect("an id").to_owned()
    }

    /// A prefill leg of this transfer.
    fn push(&self, transfer: &str) -> RequestBuilder {
        let mut body = completion(1_000);
        body["max_tokens"] = json!(1);
        body["kv_transfer_params"] =
            json!({"do_remote_decode": true, "do_remote_prefill": false, "transfer_id": transfer});
        let url = format!("{}/v1/completions", self.prefill.url());
        client().post(url).json(&body)
    }

    /// The status of a prefill leg of this transfer, at this rank.
    async fn pushed(&self, transfer: &str, rank: &str) -> u16 {
        let leg = self.push(transfer).header("x-data-parallel-rank", rank);
        send(leg).await.status().as_u16()
    }

    /// The status of a decode leg of this transfer, from this engine.
    async fn pulled(&self, transfer: &str, engine_id: &str) -> u16 {
        let params = json!({
            "do_remote_decode": false, "do_remote_prefill": true, "transfer_id": transfer,
            "remote_bootstrap_addr": self.bootstrap(), "remote_engine_id": engine_id,
        });
        self.decoded(1_000, &params).await
    }
}

#[tokio::test]
async fn a_transfer_is_complete_in_whatever_order_its_legs_come() {
    let pair = EnginePair::mooncake().await;
    let id = pair.engine_id().await;
    let both = tokio::join!(pair.pulled("a", &id), async {
        eventually("the decode leg waits", || async {
            pair.network.waiting() == 1
        })
        .await;
        pair.pushed("a", "0").await
    });
    assert_eq!(both, (200, 200));
    assert_eq!(pair.pushed("b", "0").await, 200);
    assert_eq!(pair.network.kept(), 1, "until the decode leg comes");
    assert_eq!(pair.pulled("b", &id).await, 200);
    eventually("the memory is freed", || async { pair.network.kept() == 0 }).await;
    assert_eq!(pair.network.taken(), 2);
    assert_eq!(pair.network.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_prefill_leg_without_a_rank_is_for_an_engine_of_one() {
    for (ranks, status) in [(1, 200), (2, 400)] {
        let pair = EnginePair::start(PairProtocol::VllmMooncake, |_, config, _| {
            config.data_parallel = ranks;
        })
        .await;
        assert_eq!(send(pair.push("a")).await.status(), status);
    }
}

#[tokio::test]
async fn what_would_leave_a_leg_waiting_is_refused_and_counted() {
    let pair = EnginePair::mooncake().await;
    let id = pair.engine_id().await;
    assert_eq!(pair.pulled("a", "another engine").await, 500);
    assert_eq!(pair.pushed("a", "1").await, 400);
    assert_eq!(pair.pushed("a", "zero").await, 400);
    assert_eq!(pair.pushed("a", "0").await, 200);
    assert_eq!(pair.pushed("a", "0").await, 500, "a transfer is for once");
    assert_eq!(pair.pulled("a", &id).await, 200);
    let incomplete = json!({"do_remote_prefill": true, "transfer_id": "c"});
    assert_eq!(pair.decoded(1_000, &incomplete).await, 500);
    assert_eq!(ask(&pair.prefill, &completion(10)).await.0, 500);
    let mut kinds = pair.network.violations();
    kinds.sort();
    let expected = [
        "incomplete_parameters",
        "no_prefill_leg",
        "no_rank",
        "no_rank",
        "other_engine",
        "room_in_use",
    ];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn a_decode_leg_that_is_left_alone_with_a_prefill_leg_that_was_cut_off_is_counted() {
    let pair = EnginePair::start(PairProtocol::VllmMooncake, |_, config, _| {
        *config = EngineConfig {
            prefill_rate: 300.0,
            step_budget: 64,
            ..EngineConfig::default()
        };
    })
    .await;
    let id = pair.engine_id().await;
    let pulled = pair.pulled("a", &id);
    let cut_off = async {
        let mut pushed = std::pin::pin!(pair.pushed("a", "0"));
        let both_are_there = eventually("both legs are there", || async {
            pair.prefill.stats().running == 1 && pair.network.waiting() == 1
        });
        tokio::select! {
            _ = &mut pushed => panic!("it takes some seconds"),
            () = both_are_there => {}
        }
    };
    let (status, ()) = tokio::join!(pulled, cut_off);
    assert_eq!(status, 500);
    assert_eq!(pair.network.violations(), ["left_alone"]);
}
