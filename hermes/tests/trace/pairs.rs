//! A request that is split is one trace.

use hermes_engine_sim::{
    Engine, EngineConfig, EngineHandle, PairConfig, PairNetwork, PairProtocol, PairRole,
};
use hermes_testkit::collector::{Collector, Kind, Span, Value};
use serde_json::json;

use crate::{context::*, router::Router};

async fn engine_of(role: PairRole, network: &std::sync::Arc<PairNetwork>) -> EngineHandle {
    let config = EngineConfig {
        pair: Some(PairConfig::new(role, PairProtocol::VllmNixl, network)),
        ..EngineConfig::default()
    };
    Engine::start(config).await.expect("an engine")
}

/// A router in front of a pair, and a collector of its spans.
async fn paired_router(name: &str) -> (Collector, Router, [EngineHandle; 2]) {
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
    let router = Router::with_pool(name, &pool, &exporting(&url, "grpc")).await;
    (collector, router, [prefill, decode])
}

#[tokio::test]
async fn both_legs_of_a_pair_are_siblings_and_the_decode_follows_the_prefill() {
    let (collector, router, [prefill, decode]) = paired_router("pair").await;
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
    assert_eq!(second.links.len(), 1, "{second:#?}");
    assert_eq!(second.links[0], first.span_id, "it follows from it");
    assert!(first.links.is_empty(), "{first:#?}");
    for (engine, leg) in [(&prefill, first), (&decode, second)] {
        let parent = format!("00-{}-{}-01", trace_id(1), leg.span_id);
        assert_eq!(sent(engine, 1).header("traceparent"), Some(&*parent));
    }
}

#[tokio::test]
async fn the_time_to_first_token_of_a_pair_is_split_into_its_parts() {
    let (collector, router, _engines) = paired_router("pair-parts").await;
    let response = router.chat(&traceparent(2, "01"), &chat("sim", true)).await;
    stream(response).await;
    assert!(router.stop().await.0.success());

    let spans = collector.trace(&trace_id(2));
    let server = server(&spans);
    let [prefill, decode] = of_kind(&spans, Kind::Client)[..] else {
        panic!("two legs in {spans:#?}")
    };
    let part = |name: &str| seconds(server, &format!("hermes.ttft.{name}"));
    let names = ["queue", "prefill", "handover", "transfer", "first_step"];
    let parts = names.map(part);
    let ttft = seconds(server, "gen_ai.response.time_to_first_chunk");
    assert!(parts.iter().sum::<f64>() <= ttft, "{parts:?} of {ttft} s");
    let [queue, computed, handover, transfer, first_step] = parts;
    assert_eq!(queue, 0.0);
    assert!(computed > 0.0 && computed <= prefill.duration().as_secs_f64() + 0.001);
    assert!(handover > 0.0 && first_step > 0.0);
    assert!(transfer + first_step <= decode.duration().as_secs_f64());
}

/// An attribute that is a time.
fn seconds(span: &Span, name: &str) -> f64 {
    let Some(Value::Double(seconds)) = span.attribute(name) else {
        panic!("{name} of {span:#?}")
    };
    *seconds
}
