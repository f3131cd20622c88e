//! What a proxy remembers of its choices, when the brain that made them is gone, restarted, or another one.

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
    world::{World, chosen_by, follows, proxy_of},
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
fn requests(world: &World) -> BTreeMap<u64, u64> {
    let count = |url: &str| {
        world
            .engines
            .iter()
            .find(|engine| engine.url() == url)
            .expect("an engine")
            .stats()
            .requests
    };
    world.snapshot.pools[0]
        .endpoints
        .iter()
        .map(|endpoint| (endpoint.id.0, count(&endpoint.url)))
        .collect()
}

#[tokio::test]
async fn without_a_brain_conversations_return_to_where_this_proxy_sent_them() {
    let world = World::of(4).await;
    let mut replica = Replica::start("a", world.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let endpoints: Vec<u64> = world.snapshot.pools[0]
        .endpoints
        .iter()
        .map(|endpoint| endpoint.id.0)
        .collect();
    for (number, endpoint) in endpoints.iter().enumerate() {
        bound(&proxy, &mut replica, &format!("user {number}"), *endpoint).await;
    }
    drop(replica);
    follows(&proxy, 0.0).await;
    for number in 0..endpoints.len() {
        assert_eq!(
            send(turn(&proxy, &format!("user {number}"), 1))
                .await
                .status(),
            200
        );
    }
    assert_eq!(chosen_by(&proxy, "local").await, endpoints.len() as f64);
    assert_eq!(requests(&world).into_values().collect::<Vec<_>>(), [2; 4]);
    let expected =
        "hermes_cache_prediction_tokens_total{pool=\"chat\",source=\"learned\",kind=\"expected\"}";
    assert!(metric(&proxy.admin_url(), expected).await > 1_000.0);
}

#[tokio::test]
async fn a_brain_that_restarted_is_taught_what_was_sent_where() {
    let world = World::of(2).await;
    let mut replica = Replica::start("a", world.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let question = bound(&proxy, &mut replica, "alice", world.first()).await;
    assert!(replica.has_no_lesson(), "whoever made a choice knows it");

    replica.leave();
    replica.come_back(world.restarted());
    let lesson = replica.lesson().await;
    assert_eq!(
        (&*lesson.pool, lesson.block_bytes),
        ("chat", question.block_bytes)
    );
    let [decision] = &lesson.decisions[..] else {
        panic!("one choice was made: {lesson:?}")
    };
    assert_eq!(
        (decision.endpoint.0, decision.prompt_tokens),
        (world.first(), question.prompt_tokens)
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
async fn choices_that_were_made_while_the_brain_was_away_are_taught_when_it_is_back() {
    let world = World::of(1).await;
    let mut replica = Replica::start("a", world.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    replica.leave();
    follows(&proxy, 0.0).await;
    assert_eq!(send(turn(&proxy, "alice", 0)).await.status(), 200);
    // The same run of the same replica: only the network failed.
    replica.come_back(world.snapshot.clone());
    assert_eq!(replica.lesson().await.decisions.len(), 1);
}

#[tokio::test]
async fn the_next_owner_of_a_pool_is_taught_and_before_that_only_the_owner_is_asked() {
    let world = World::of(2).await;
    let names = ["a", "b", "c"];
    let first = owner("chat", names).expect("one of them");
    let second =
        owner("chat", names.into_iter().filter(|name| *name != first)).expect("one of them");
    let mut replicas = BTreeMap::new();
    for name in names {
        replicas.insert(
            name,
            Replica::start(name, world.snapshot.clone())
                .await
                .expect("starts"),
        );
    }
    let proxy = proxy_of(&replicas.values().collect::<Vec<_>>()).await;
    let mut owner = replicas.remove(first).expect("it runs");
    bound(&proxy, &mut owner, "alice", world.first()).await;
    bound(&proxy, &mut owner, "bob", world.first()).await;
    drop(owner);

    let mut heir = replicas.remove(second).expect("it runs");
    assert_eq!(heir.lesson().await.decisions.len(), 2);
    let mut other = replicas.into_values().next().expect("the third");
    bound(&proxy, &mut heir, "carol", world.first()).await;
    assert!(other.has_no_lesson());
}

#[tokio::test]
async fn a_pool_whose_strategy_reads_no_prompts_teaches_nothing() {
    let policy = PoolPolicy {
        strategy: hermes_core::policy::Strategy::LeastRequest,
        ..PoolPolicy::default()
    };
    let world = World::with(1, policy).await;
    let mut replica = Replica::start("a", world.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let question = bound(&proxy, &mut replica, "alice", world.first()).await;
    assert!(question.blocks.is_empty());
    replica.leave();
    follows(&proxy, 0.0).await;
    replica.come_back(world.restarted());
    follows(&proxy, 1.0).await;
    bound(&proxy, &mut replica, "alice", world.first()).await;
    assert!(replica.has_no_lesson());
}
