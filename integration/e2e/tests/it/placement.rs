//! Placements that a replica names: a scripted replica, a real proxy, simulated engines.

use std::time::Duration;

use hermes_core::policy::PoolPolicy;
use hermes_engine_sim::EngineHandle;
use hermes_proto::v1::{Candidate, Selected, score_response::Answer};
use hermes_testkit::replica::Replica;

use crate::{
    client::{chat, metric, send},
    proxy_context::{ProxyContext, chosen_by, proxy_of},
};

/// Serves one request whose replica answers with these candidates. Returns the counts of selections
/// by the replica and by the proxy, and of answers that were not used because of pairs.
async fn served(context: &ProxyContext, ranked: Vec<Candidate>) -> (f64, f64, f64) {
    let mut replica = Replica::start("a", context.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let request = chat(&proxy.url(), false, 1);
    let answer = tokio::spawn(async move { send(request).await.status().as_u16() });
    let question = replica.question().await;
    let selected = Selected {
        ranked,
        ..Selected::default()
    };
    replica.answer(question.id, Answer::Selected(selected));
    assert_eq!(answer.await.expect("answered"), 200);
    let unused = "hermes_score_failures_total{pool=\"chat\",reason=\"unsupported_pair\"}";
    (
        chosen_by(&proxy, "score").await,
        chosen_by(&proxy, "local").await,
        metric(&proxy.admin_url(), unused).await,
    )
}

/// A pair of the pool's two endpoints, and the first of them alone.
async fn candidates() -> (ProxyContext, Candidate, Candidate) {
    let policy = PoolPolicy {
        score_deadline: Duration::from_secs(5),
        ..PoolPolicy::default()
    };
    let context = ProxyContext::with(2, policy).await;
    let endpoints = &context.snapshot.pools[0].endpoints;
    let one = Candidate {
        endpoint: endpoints[0].id.0,
        ..Candidate::default()
    };
    let pair = Candidate {
        prefill: Some(endpoints[1].id.0),
        ..one
    };
    (context, pair, one)
}

#[tokio::test]
async fn a_pair_is_left_out_when_the_replica_also_names_one_endpoint() {
    let (context, pair, one) = candidates().await;
    assert_eq!(served(&context, vec![pair, one]).await, (1.0, 0.0, 0.0));
    let first = context.snapshot.pools[0].endpoints[0].address.to_string();
    let engines = context.engines.iter();
    let used = engines.filter(|engine| engine.stats().requests == 1);
    let used: Vec<String> = used.map(EngineHandle::url).collect();
    assert_eq!(used, [first]);
}

#[tokio::test]
async fn a_proxy_that_gets_only_pairs_selects_by_itself_and_counts_that() {
    let (context, pair, _) = candidates().await;
    assert_eq!(served(&context, vec![pair]).await, (0.0, 1.0, 1.0));
}
