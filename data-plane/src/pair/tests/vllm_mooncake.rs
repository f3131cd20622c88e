//! The bytes of `vllm-mooncake`, as vLLM's example proxy has them.

use hermes_core::snapshot::EngineRank;

use super::*;

fn prefill_of_two_ranks() -> Endpoint {
    let mut endpoint = endpoint("http://10.0.0.7:8000", Role::Prefill);
    let rank = |rank, engine_id: &str| EngineRank {
        rank,
        engine_id: engine_id.into(),
    };
    endpoint.pairing.ranks = Some([rank(0, "e-0"), rank(3, "e\"3")].into());
    endpoint
}

fn legs(api: Api, prefill: &Endpoint, number: u64) -> ConcurrentLegs {
    let decode = endpoint("http://10.0.0.8:8001", Role::Decode);
    let pair = PairEndpoints {
        prefill,
        decode: &decode,
    };
    let rules = DisaggregationPolicy::of(PairDialect::VllmMooncake);
    let Ok(PairPlan::AtOnce(legs)) = plan(&rules, api, pair, number) else {
        panic!("both at once");
    };
    legs
}

#[tokio::test]
async fn both_legs_have_one_transfer_and_the_prefill_leg_the_rank_that_the_decode_leg_names() {
    let prefill = prefill_of_two_ranks();
    let legs = legs(Api::Chat, &prefill, 0xab);
    let body = r#"{"messages":[],"stream":true,"stream_options":{},"stop":["a"],"min_tokens":4,"max_completion_tokens":9}"#;
    assert_eq!(
        edited(body, &legs.prefill).await,
        r#"{"messages":[],"stream":false,"min_tokens":1,"max_completion_tokens":1,"max_tokens":1,"kv_transfer_params":{"do_remote_decode":true,"do_remote_prefill":false,"transfer_id":"xfer-00000000000000ab"}}"#
    );
    assert_eq!(headers(&legs.prefill), [("x-data-parallel-rank", "3")]);
    assert_eq!(
        edited(r#"{"messages":[],"stream":true}"#, &legs.decode).await,
        r#"{"messages":[],"stream":true,"kv_transfer_params":{"do_remote_decode":false,"do_remote_prefill":true,"transfer_id":"xfer-00000000000000ab","remote_bootstrap_addr":"http://10.0.0.7:8998","remote_engine_id":"e\"3"}}"#
    );
    assert_eq!(headers(&legs.decode), []);
    assert!(legs.must_end && legs.prefill.is_for_once && legs.decode.is_for_once);
}

#[tokio::test]
async fn the_bootstrap_address_is_a_url_for_any_host_and_port() {
    let mut prefill = prefill_of_two_ranks();
    prefill.address = "https://[fd00::7]:8443".parse().expect("an address");
    prefill.pairing.bootstrap_port = std::num::NonZeroU16::new(9001);
    let decode = edited("{}", &legs(Api::Chat, &prefill, 0).decode).await;
    assert!(
        decode.contains(
            r#""remote_bootstrap_addr":"http://[fd00::7]:9001","remote_engine_id":"e-0""#
        ),
        "{decode}"
    );
}

#[tokio::test]
async fn other_apis_get_no_field_of_their_own_that_they_do_not_have() {
    let prefill = prefill_of_two_ranks();
    let legs = legs(Api::Messages, &prefill, 0);
    let leg = edited(
        r#"{"messages":[],"max_tokens":9,"stop_sequences":["a"]}"#,
        &legs.prefill,
    );
    assert_eq!(
        leg.await,
        r#"{"messages":[],"max_tokens":1,"stream":false,"kv_transfer_params":{"do_remote_decode":true,"do_remote_prefill":false,"transfer_id":"xfer-0000000000000000"}}"#
    );
}

#[test]
fn a_prefill_whose_ranks_have_no_names_is_sent_nothing() {
    let prefill = endpoint("http://10.0.0.7:8000", Role::Prefill);
    let pair = PairEndpoints {
        prefill: &prefill,
        decode: &prefill,
    };
    let rules = DisaggregationPolicy::of(PairDialect::VllmMooncake);
    let unknown = plan(&rules, Api::Chat, pair, 1).expect_err("no rank is known");
    assert!(unknown.contains("rank"), "{unknown}");
}

#[test]
fn a_prefill_that_did_not_end_at_its_limit_transfers_nothing() {
    let is_taken = |api, answer: &str| {
        let answer = Bytes::copy_from_slice(answer.as_bytes());
        match after_prefill(PairDialect::VllmMooncake, api, &answer) {
            PrefillResult::HandOver(handoff) => Some(handoff.is_taken),
            PrefillResult::Final(_) => panic!("the client wants more than one token"),
            PrefillResult::Unusable(_) => None,
        }
    };
    for (api, at_limit, stopped) in [
        (
            Api::Chat,
            r#"{"choices":[{"finish_reason":"length"}],"kv_transfer_params":null}"#,
            r#"{"choices":[{"finish_reason":"stop"}]}"#,
        ),
        (
            Api::Responses,
            r#"{"status":"incomplete"}"#,
            r#"{"status":"completed"}"#,
        ),
        (
            Api::Messages,
            r#"{"stop_reason":"max_tokens"}"#,
            r#"{"stop_reason":"end_turn"}"#,
        ),
    ] {
        assert_eq!(is_taken(api, at_limit), Some(true), "{at_limit}");
        assert_eq!(is_taken(api, stopped), Some(false), "{stopped}");
        for other in [
            "{}",
            "no JSON",
            r#"{"choices":[]}"#,
            r#"{"status":"failed"}"#,
        ] {
            assert_eq!(is_taken(api, other), None, "{other}");
        }
    }
}
