//! A request that is split is one trace.

use hermes_engine_sim::{
    Engine, EngineConfig, EngineHandle, PairConfig, PairNetwork, PairProtocol, PairRole,
};
use hermes_testkit::collector::{Collector, Kind};
use serde_json::json;

use crate::{context::*, router::Router};

async fn engine_of(role: PairRole, network: &std::sync::Arc<PairNetwork>) -> EngineHandle {
    let config = EngineConfig {
        pair: Some(PairConfig::new(role, PairProtocol::VllmNixl, network)),
        ..EngineConfig::default()
    };
    Engine::start(config).await.expect("an engine")
}

#[tokio::test]
async fn both_legs_of_a_pair_are_siblings_and_the_decode_follows_the_prefill() {
    let (collector, network) = (
        Collector::start().await.expect("a collector"),
        std::sync::Arc::default(),
    );
    let (prefill, decode) = (
        engine_of(PairRole::Prefill, &network).await,
        engine_of(PairRole::Decode, &network).await,
    );
    let pool = json!({
        "name": "chat", "strategy": "kv-aware", "scoreDeadline": "5s",
        "disaggregation": {
            "dialect": "vllm-nixl", "minUncachedTokens": 0,
            "prefill": [prefill.url()], "decode": [decode.url()],
        },
    });
    let url = collector.url();
    let router = Router::with_pool("pair", &pool, &exporting(&url, "grpc")).await;
    let response = router
        .chat(&traceparent(1, "01"), &chat("sim", false))
        .await;
    assert_eq!(response.status(), 200);
    assert!(router.stop().await.0.success());

    let spans = collector.trace(&trace_id(1));
    let server = server(&spans);
    let [first, second] = of_kind(&spans, Kind::Client)[..] else {
        panic!("two legs in {spans:#?}")
    };
    says(first, &[("hermes.stage", "prefill".into())]);
    says(second, &[("hermes.stage", "decode".into())]);
    assert_eq!(
        [&first.parent_id, &second.parent_id],
        [&server.span_id, &server.span_id]
    );
    assert!(first.start < second.start, "{spans:#?}");
    for (engine, leg) in [(&prefill, first), (&decode, second)] {
        let parent = format!("00-{}-{}-01", trace_id(1), leg.span_id);
        assert_eq!(sent(engine, 1).header("traceparent"), Some(&*parent));
    }
}
