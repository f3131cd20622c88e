//! What the two engines of a pair are sent in each dialect.

use super::*;

#[tokio::test]
async fn a_nixl_pair_answers_as_one_engine_does_and_takes_over_what_was_prefilled() {
    let fleet = PairedScene::nixl(1, 1)
        .strategy("kv-aware")
        .keys("minUncachedTokens: 0")
        .start()
        .await;
    texts_are_those_of_one_engine(&fleet).await;
    assert_eq!(fleet.network.violations(), Vec::<String>::new());
    assert_eq!((fleet.network.taken(), fleet.network.kept()), (4, 0));
    assert_eq!(fleet.pairs("answered").await, 4.0);
    let (prefill, decode) = (sent(&fleet.prefills[0]), sent(&fleet.decodes[0]));
    assert_eq!((prefill.len(), decode.len()), (4, 4));
    for (prefill, decode) in prefill.iter().zip(&decode) {
        let id = |request: &RecordedRequest| request.header("x-request-id").map(str::to_owned);
        assert_eq!(id(prefill), id(decode), "both legs have one id");
        assert_eq!(prefill.json()["max_tokens"], 1);
        assert_eq!(decode.json()["max_tokens"], 5);
    }
}

#[tokio::test]
async fn an_sglang_pair_gets_one_body_and_answers_as_one_engine_does() {
    let fleet = PairedScene::sglang(1, 1).start().await;
    texts_are_those_of_one_engine(&fleet).await;
    assert_eq!(fleet.network.violations(), Vec::<String>::new());
    assert_eq!(fleet.pairs("answered").await, 4.0);
    let (prefill, decode) = (sent(&fleet.prefills[0]), sent(&fleet.decodes[0]));
    let bodies = |requests: &[Arc<RecordedRequest>]| -> Vec<_> {
        requests
            .iter()
            .map(|request| request.body.clone())
            .collect()
    };
    assert_eq!(bodies(&prefill), bodies(&decode));
}

#[tokio::test]
async fn a_shared_store_is_filled_by_a_leg_of_one_token_before_the_request() {
    let scene = PairedScene::of("shared-storage", None, [1, 1]);
    let fleet = scene.keys("minUncachedTokens: 0").start().await;
    texts_are_those_of_one_engine(&fleet).await;
    let body = serde_json::to_vec(&long_chat("two", true)).expect("JSON");
    let (prefill, decode) = (sent(&fleet.prefills[0]), sent(&fleet.decodes[0]));
    assert_eq!(prefill[3].json()["max_tokens"], 1);
    assert_eq!(decode[3].body, body, "what the client sent");
}

#[tokio::test]
async fn a_leader_gets_the_request_with_the_addresses_of_a_pair() {
    let leader = Engine::start(instant()).await.expect("starts");
    let scene = PairedScene::of("leader-headers", None, [1, 1]);
    let fleet = scene
        .keys(&format!("leaders: [{}]", leader.url()))
        .start()
        .await;
    let body = long_chat("led", false);
    text_of(&fleet.url(), &body).await;
    let requests = sent(&leader);
    let [request] = &requests[..] else {
        panic!("one request")
    };
    let address = |engine: &EngineHandle| Some(engine.addr().to_string());
    let named = |name| request.header(name).map(str::to_owned);
    assert_eq!(
        named("x-openfuyao-prefill-pod-address-port"),
        address(&fleet.prefills[0])
    );
    assert_eq!(
        named("x-openfuyao-decode-pod-address-port"),
        address(&fleet.decodes[0])
    );
    assert!(sent(&fleet.prefills[0]).is_empty() && sent(&fleet.decodes[0]).is_empty());
}

#[tokio::test]
async fn a_sidecar_gets_the_request_with_the_address_of_the_prefill_engine() {
    let fleet = PairedScene::of("llm-d-sidecar", None, [1, 1]).start().await;
    text_of(&fleet.url(), &long_chat("sidecar", true)).await;
    let requests = sent(&fleet.decodes[0]);
    let prefiller = requests[0].header("x-prefiller-host-port");
    assert_eq!(prefiller, Some(&*fleet.prefills[0].addr().to_string()));
    assert!(sent(&fleet.prefills[0]).is_empty());
}
