//! The routing history of a proxy: its use without a control plane, and its replay to a restarted
//! or new owner.

use std::{collections::BTreeMap, time::Duration};

use hermes_bench::fleet::Plane;
use hermes_core::{policy::PoolPolicy, rendezvous::owner};
use hermes_data_plane::app as data;
use hermes_proto::v1::ScoreRequest;
use hermes_testkit::replica::Replica;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use crate::{
    client::{ask, metric, send},
    proxy_context::{ProxyContext, await_connected, chosen_by, proxy_of},
};

/// A chat that grows: each turn begins with all that was said before.
fn turn(proxy: &Plane<data::DataPlane>, user: &str, turns: usize) -> RequestBuilder {
    let text = |turn: usize| {
        format!(
            "{user} asks question number {turn}: {}",
            "why does it rain? ".repeat(60)
        )
    };
    let messages: Vec<Value> = (0..=turns)
        .map(|turn| json!({"role": "user", "content": text(turn)}))
        .collect();
    ask(
        &proxy.url(),
        &json!({"model": "sim", "max_tokens": 1, "messages": messages}),
    )
}

/// One turn, sent where the owner says; returns what the owner was asked.
async fn bound(
    proxy: &Plane<data::DataPlane>,
    owner: &mut Replica,
    user: &str,
    endpoint: u64,
) -> ScoreRequest {
    let answer = tokio::spawn(send(turn(proxy, user, 0)));
    let question = owner.question().await;
    owner.choose(question.id, endpoint);
    assert_eq!(answer.await.expect("answered").status(), 200);
    question
}

/// Requests that each engine had, by endpoint.
fn requests(context: &ProxyContext) -> BTreeMap<u64, u64> {
    let count = |url: &str| {
        context
            .engines
            .iter()
            .find(|engine| engine.url() == url)
            .expect("an engine")
            .stats()
            .requests
    };
    context.snapshot.pools[0]
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.id.0, count(&endpoint.address.to_string())))
        .collect()
}

#[tokio::test]
async fn without_a_control_plane_conversations_return_to_where_this_proxy_sent_them() {
    let context = ProxyContext::of(4).await;
    let mut replica = Replica::start("a", context.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let endpoints: Vec<u64> = context.snapshot.pools[0]
        .endpoints
        .iter()
        .map(|endpoint| endpoint.id.0)
        .collect();
    for (number, endpoint) in endpoints.iter().enumerate() {
        bound(&proxy, &mut replica, &format!("user {number}"), *endpoint).await;
    }
    drop(replica);
    await_connected(&proxy, 0.0).await;
    for number in 0..endpoints.len() {
        assert_eq!(
            send(turn(&proxy, &format!("user {number}"), 1))
                .await
                .status(),
            200
        );
    }
    assert_eq!(chosen_by(&proxy, "local").await, endpoints.len() as f64);
    assert_eq!(requests(&context).into_values().collect::<Vec<_>>(), [2; 4]);
    let expected =
        "hermes_cache_prediction_tokens_total{pool=\"chat\",source=\"learned\",kind=\"expected\"}";
    assert!(metric(&proxy.admin_url(), expected).await > 1_000.0);
}

#[tokio::test]
async fn the_history_is_replayed_to_a_restarted_replica() {
    let context = ProxyContext::of(2).await;
    let mut replica = Replica::start("a", context.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let question = bound(&proxy, &mut replica, "alice", context.first()).await;
    assert!(
        replica.has_no_history(),
        "the replica that scored a request gets no replay of it"
    );

    replica.leave();
    replica.come_back(context.restarted());
    let history = replica.history().await;
    assert_eq!(
        (&*history.pool, history.block_bytes),
        ("chat", question.block_bytes)
    );
    let [decision] = &history.requests[..] else {
        panic!("one choice was made: {history:?}")
    };
    assert_eq!(
        (decision.endpoint.0, decision.prompt_tokens),
        (context.first(), question.prompt_tokens)
    );
    assert_eq!(&*decision.blocks, &*question.blocks);
    assert!(decision.age < Duration::from_secs(20));
    assert_eq!(
        metric(
            &proxy.admin_url(),
            "hermes_history_replayed_requests_total{pool=\"chat\"}"
        )
        .await,
        1.0
    );
}

#[tokio::test]
async fn requests_routed_during_an_outage_are_replayed_after_it() {
    let context = ProxyContext::of(1).await;
    let mut replica = Replica::start("a", context.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    replica.leave();
    await_connected(&proxy, 0.0).await;
    assert_eq!(send(turn(&proxy, "alice", 0)).await.status(), 200);
    // The same run of the same replica: only the network failed.
    replica.come_back(context.snapshot.clone());
    assert_eq!(replica.history().await.requests.len(), 1);
}

#[tokio::test]
async fn the_next_owner_of_a_pool_gets_the_history_and_other_replicas_get_no_score_requests() {
    let context = ProxyContext::of(2).await;
    let names = ["a", "b", "c"];
    let first = owner("chat", names).expect("one of them");
    let second =
        owner("chat", names.into_iter().filter(|name| *name != first)).expect("one of them");
    let mut replicas = BTreeMap::new();
    for name in names {
        replicas.insert(
            name,
            Replica::start(name, context.snapshot.clone())
                .await
                .expect("starts"),
        );
    }
    let proxy = proxy_of(&replicas.values().collect::<Vec<_>>()).await;
    let mut owner = replicas.remove(first).expect("it runs");
    bound(&proxy, &mut owner, "alice", context.first()).await;
    bound(&proxy, &mut owner, "bob", context.first()).await;
    drop(owner);

    let mut successor = replicas.remove(second).expect("it runs");
    assert_eq!(successor.history().await.requests.len(), 2);
    let mut other = replicas.into_values().next().expect("the third");
    bound(&proxy, &mut successor, "carol", context.first()).await;
    assert!(other.has_no_history());
}

#[tokio::test]
async fn a_pool_whose_strategy_reads_no_prompts_replays_no_history() {
    let policy = PoolPolicy {
        strategy: hermes_core::policy::Strategy::LeastRequest,
        ..PoolPolicy::default()
    };
    let context = ProxyContext::with(1, policy).await;
    let mut replica = Replica::start("a", context.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let question = bound(&proxy, &mut replica, "alice", context.first()).await;
    assert!(question.blocks.is_empty());
    replica.leave();
    await_connected(&proxy, 0.0).await;
    replica.come_back(context.restarted());
    await_connected(&proxy, 1.0).await;
    bound(&proxy, &mut replica, "alice", context.first()).await;
    assert!(replica.has_no_history());
}
