//! The bytes of each dialect, as engines and their proxies have them.

use bytes::Bytes;
use hermes_core::snapshot::{EndpointId, PairingFacts, Role};
use http_body_util::BodyExt;

use super::*;
use crate::request::{
    body_edit::{self, FieldPositions},
    request_body::RequestBody,
};

mod trtllm;
mod vllm_mooncake;

/// A vLLM 0.32 prefill's answer.
const PARAMS: &str = r#"{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[10,11,12,13,14,15,16,17,18]],"remote_engine_id":"6d1c","remote_request_id":"cmpl-req-1795320428-0-a3b25733","remote_host":"127.0.0.1","remote_port":5701,"tp_size":1,"dcp_size":1,"pp_size":1,"remote_num_tokens":288,"remote_blocks_expiry_time":null,"transfer_mode":"pull","remote_prefill_cached_tokens":0}"#;

fn endpoint(url: &str, role: Role) -> Endpoint {
    Endpoint {
        id: EndpointId(1),
        address: url.parse().expect("an address"),
        name: url.into(),
        role,
        group: None,
        pairing: PairingFacts::default(),
    }
}

fn planned(dialect: PairDialect, api: Api) -> PairPlan {
    let (prefill, decode) = (
        endpoint("http://10.0.0.7:8000", Role::Prefill),
        endpoint("http://10.0.0.8:8001", Role::Decode),
    );
    let pair = PairEndpoints {
        prefill: &prefill,
        decode: &decode,
    };
    plan(&DisaggregationPolicy::of(dialect), api, pair, u64::MAX).expect("all is known")
}

/// What the decode leg takes over.
fn handoff(dialect: PairDialect, answer: &[u8]) -> Handoff {
    let PrefillResult::HandOver(handoff) =
        after_prefill(dialect, Api::Chat, &Bytes::copy_from_slice(answer))
    else {
        panic!("a decode leg follows")
    };
    handoff
}

/// What becomes of a body by these edits.
async fn edited(body: &'static str, edits: &LegEdits) -> String {
    let body = RequestBody::from(Bytes::from_static(body.as_bytes()));
    let own = (&body, &FieldPositions::default());
    let edited = body_edit::edited(own, &edits.body).expect("an object");
    let bytes = edited.collect().await.expect("infallible").to_bytes();
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn headers(edits: &LegEdits) -> Vec<(&str, &str)> {
    let pairs = edits.headers.iter();
    pairs
        .map(|(name, value)| (name.as_str(), value.to_str().expect("ASCII")))
        .collect()
}

#[tokio::test]
async fn a_nixl_prefill_asks_for_one_token_and_a_remote_decode() {
    let PairPlan::Serial(edits) = planned(PairDialect::VllmNixl, Api::Chat) else {
        panic!("one leg after the other");
    };
    let body = r#"{"model":"tiny","messages":[{"role":"user","content":"h\u00e9"}],"stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":64,"min_tokens":2,"tools":[]}"#;
    assert_eq!(
        edited(body, &edits).await,
        r#"{"model":"tiny","messages":[{"role":"user","content":"h\u00e9"}],"stream":false,"max_completion_tokens":1,"tools":[],"max_tokens":1,"kv_transfer_params":{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}}"#
    );
    assert_eq!(headers(&edits), []);
    let plain = edited(r#"{"prompt":"x","max_tokens":9}"#, &edits).await;
    assert!(!plain.contains("max_completion_tokens"), "{plain}");
}

#[tokio::test]
async fn the_limit_of_a_prefill_leg_has_the_name_of_its_api() {
    let limited = |api, body| async move {
        let PairPlan::Serial(edits) = planned(PairDialect::SharedStorage, api) else {
            panic!("one leg after the other");
        };
        edited(body, &edits).await
    };
    assert_eq!(
        limited(Api::Responses, r#"{"input":"x","max_output_tokens":9}"#).await,
        r#"{"input":"x","max_output_tokens":1,"stream":false}"#
    );
    assert_eq!(
        limited(Api::Messages, r#"{"messages":[],"max_tokens":9}"#).await,
        r#"{"messages":[],"max_tokens":1,"stream":false}"#
    );
}

#[tokio::test]
async fn a_nixl_decode_gets_what_the_prefill_answered_byte_by_byte() {
    let answer = format!(
        r#"{{"id":"cmpl-1","choices":[{{"index":0,"text":" a","finish_reason":"length"}}],"kv_transfer_params":{PARAMS}}}"#
    );
    let handoff = handoff(PairDialect::VllmNixl, answer.as_bytes());
    assert!(handoff.is_taken && handoff.edits.is_for_once);
    assert_eq!(
        edited(r#"{"prompt":"x", "stream": true}"#, &handoff.edits).await,
        format!(r#"{{"prompt":"x", "stream": true,"kv_transfer_params":{PARAMS}}}"#)
    );
}

#[test]
fn a_prefill_without_parameters_hands_nothing_over() {
    for answer in [
        r#"{"choices":[{"finish_reason":"abort"}],"kv_transfer_params":null}"#,
        r#"{"choices":[]}"#,
        "no JSON",
    ] {
        let handoff = handoff(PairDialect::VllmNixl, answer.as_bytes());
        assert!(
            !handoff.is_taken && handoff.edits.body.is_empty(),
            "{answer}"
        );
    }
}

#[test]
fn the_cached_tokens_of_a_prefill_are_stated_where_its_decode_would_report_others() {
    let usage = r#""usage":{"prompt_tokens":288,"prompt_tokens_details":{"cached_tokens":32}}"#;
    let cached = |dialect, params: &str| {
        let choice = r#"{"index":0,"finish_reason":"length"}"#;
        let answer = format!(r#"{{"choices":[{choice}],{usage},"kv_transfer_params":{params}}}"#);
        handoff(dialect, answer.as_bytes()).cached_tokens
    };
    let older = PARAMS.replace(",\"remote_prefill_cached_tokens\":0", "");
    assert_eq!(cached(PairDialect::VllmNixl, &older), Some(32));
    assert_eq!(
        cached(PairDialect::VllmNixl, PARAMS),
        None,
        "it reports them"
    );
    assert_eq!(
        cached(PairDialect::VllmNixl, "null"),
        None,
        "it computes all"
    );
    assert_eq!(cached(PairDialect::SharedStorage, "null"), Some(32));
    assert_eq!(cached(PairDialect::VllmMooncake, "null"), Some(32));
    assert_eq!(
        handoff(PairDialect::SharedStorage, b"{}").cached_tokens,
        None
    );
}

#[tokio::test]
async fn a_shared_store_needs_no_parameters() {
    let handoff = handoff(PairDialect::SharedStorage, b"{}");
    assert!(handoff.is_taken && !handoff.edits.is_for_once);
    let body = r#"{ "prompt": "x" }"#;
    assert_eq!(edited(body, &handoff.edits).await, body);
}

#[tokio::test]
async fn both_legs_of_sglang_have_one_body_with_a_room_of_63_bits() {
    let PairPlan::AtOnce(legs) = planned(PairDialect::Sglang, Api::Chat) else {
        panic!("both at once");
    };
    for edits in [&legs.prefill, &legs.decode] {
        assert_eq!(
            edited(r#"{"messages":[],"max_tokens":5}"#, edits).await,
            r#"{"messages":[],"max_tokens":5,"bootstrap_host":"10.0.0.7","bootstrap_port":8998,"bootstrap_room":9223372036854775807}"#
        );
    }
}

#[test]
fn a_bootstrap_port_of_the_endpoint_takes_precedence() {
    let mut prefill = endpoint("http://10.0.0.7:8000", Role::Prefill);
    prefill.pairing.bootstrap_port = std::num::NonZeroU16::new(9001);
    let edits = sglang::both(&prefill, prefill.pairing.bootstrap_port.expect("set"), 7);
    let BodyEdit::Set(name, value) = &edits.body[1] else {
        panic!("a value");
    };
    assert_eq!((*name, &**value), ("bootstrap_port", &b"9001"[..]));
}

#[test]
fn a_leader_and_a_sidecar_get_the_endpoints_in_headers() {
    let PairPlan::Through(PairEntry::Leader, edits) =
        planned(PairDialect::LeaderHeaders, Api::Chat)
    else {
        panic!("through the leader");
    };
    assert_eq!(
        headers(&edits),
        [
            ("x-openfuyao-prefill-pod-address-port", "10.0.0.7:8000"),
            ("x-openfuyao-decode-pod-address-port", "10.0.0.8:8001"),
        ]
    );
    let PairPlan::Through(PairEntry::Decode, edits) = planned(PairDialect::LlmDSidecar, Api::Chat)
    else {
        panic!("through the sidecar");
    };
    assert_eq!(
        headers(&edits),
        [("x-prefiller-host-port", "10.0.0.7:8000")]
    );
    assert!(edits.body.is_empty());
}

#[test]
fn nothing_is_handed_over_in_the_last_seconds_of_a_lease() {
    let limit = |dialect| handover_limit(&DisaggregationPolicy::of(dialect));
    assert_eq!(limit(PairDialect::VllmNixl), Some(Duration::from_secs(25)));
    assert_eq!(limit(PairDialect::Trtllm), Some(Duration::from_secs(25)));
    assert_eq!(limit(PairDialect::SharedStorage), None);
}
