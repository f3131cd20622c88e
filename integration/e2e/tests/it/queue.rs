//! Requests that wait at the control plane, as a proxy sees it: a scripted replica, a real proxy, simulated engines.

use std::time::Duration;

use hermes_bench::fleet::Plane;
use hermes_core::policy::PoolPolicy;
use hermes_data_plane::app as data;
use hermes_proto::v1::refused::Reason;
use hermes_testkit::replica::Replica;
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    client::{chat, eventually, json_of, metric, send},
    world::{World, chosen_by, proxy_of},
};

/// Far longer than any of these stories.
const LONG: Duration = Duration::from_secs(600);

/// A request on its way, and the status of its answer.
fn asking(proxy: &Plane<data::DataPlane>) -> JoinHandle<u16> {
    let request = chat(&proxy.url(), false, 1);
    tokio::spawn(async move { send(request).await.status().as_u16() })
}

async fn waiting_becomes(proxy: &Plane<data::DataPlane>, count: f64) {
    let admin = proxy.admin_url();
    eventually("the number of waiting requests", || async {
        metric(&admin, "hermes_queued_requests{pool=\"chat\"}").await == count
    })
    .await;
}

#[tokio::test]
async fn a_queued_request_goes_where_it_is_bound_in_the_end() {
    let world = World::of(2).await;
    let mut replica = Replica::start("a", world.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let answer = asking(&proxy);
    let question = replica.question().await;
    assert!(question.may_wait && question.tenant.is_none() && question.waited_ms == 0);
    replica.queue(question.id, LONG);
    waiting_becomes(&proxy, 1.0).await;
    assert!(!answer.is_finished());
    replica.choose(question.id, world.first());
    assert_eq!(answer.await.expect("answered"), 200);
    waiting_becomes(&proxy, 0.0).await;
    assert_eq!(chosen_by(&proxy, "score").await, 1.0);
    assert_eq!(
        metric(
            &proxy.admin_url(),
            "hermes_queue_duration_seconds_count{pool=\"chat\"}"
        )
        .await,
        1.0
    );
}

#[tokio::test]
async fn when_the_stream_breaks_all_who_wait_are_served_at_once_without_the_brain() {
    let world = World::of(2).await;
    let mut replica = Replica::start("a", world.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let answers: Vec<_> = (0..5).map(|_| asking(&proxy)).collect();
    for _ in 0..5 {
        let question = replica.question().await;
        replica.queue(question.id, LONG);
    }
    waiting_becomes(&proxy, 5.0).await;
    let broken = Instant::now();
    drop(replica);
    for answer in answers {
        assert_eq!(answer.await.expect("answered"), 200);
    }
    assert!(
        broken.elapsed() < Duration::from_secs(5),
        "nobody waits for a deadline"
    );
    assert_eq!(chosen_by(&proxy, "local").await, 5.0);
    assert_eq!(
        metric(
            &proxy.admin_url(),
            "hermes_score_failures_total{pool=\"chat\",reason=\"stream_broken\"}"
        )
        .await,
        5.0
    );
}

#[tokio::test]
async fn whoever_waits_where_the_owner_dies_keeps_the_time_waited_at_the_next_owner() {
    let world = World::of(1).await;
    let mut replicas = Vec::new();
    for name in ["a", "b"] {
        replicas.push(
            Replica::start(name, world.snapshot.clone())
                .await
                .expect("starts"),
        );
    }
    let proxy = proxy_of(&replicas.iter().collect::<Vec<_>>()).await;
    let names = ["a", "b"];
    let owner = hermes_core::rendezvous::owner("chat", names).expect("one of the two");
    let mut owner = replicas.remove(
        names
            .iter()
            .position(|name| *name == owner)
            .expect("it is one of them"),
    );
    let mut heir = replicas.remove(0);

    let answer = asking(&proxy);
    let question = owner.question().await;
    owner.queue(question.id, LONG);
    waiting_becomes(&proxy, 1.0).await;
    let since = Instant::now();
    eventually("it has waited a while", || async {
        since.elapsed() > Duration::from_millis(1)
    })
    .await;
    drop(owner);
    let again = heir.question().await;
    assert!(again.id == question.id && again.waited_ms > 0, "{again:?}");
    heir.choose(again.id, world.first());
    assert_eq!(answer.await.expect("answered"), 200);
    assert_eq!(chosen_by(&proxy, "score").await, 1.0);
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_is_taken_out_of_it() {
    let world = World::of(1).await;
    let mut replica = Replica::start("a", world.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let client = asking(&proxy);
    let question = replica.question().await;
    replica.queue(question.id, LONG);
    waiting_becomes(&proxy, 1.0).await;
    client.abort();
    assert_eq!(replica.cancel().await, question.id);
    waiting_becomes(&proxy, 0.0).await;
    assert_eq!(world.engines[0].stats().requests, 0);
}

#[tokio::test]
async fn a_full_queue_is_the_clients_to_hear_and_no_engines() {
    let world = World::of(1).await;
    let mut replica = Replica::start("a", world.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let request = chat(&proxy.url(), false, 1);
    let answer = tokio::spawn(send(request));
    let question = replica.question().await;
    replica.refuse(question.id, Reason::QueueFull, Duration::from_millis(6_200));
    let answer = answer.await.expect("answered");
    assert_eq!(answer.headers()["retry-after"], "7", "rounded up");
    let (status, body) = json_of(answer).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (429, &"queue_full".into())
    );
    assert_eq!(body["error"]["type"], "rate_limit_error");
    assert_eq!(world.engines[0].stats().requests, 0);
    assert_eq!(
        metric(
            &proxy.admin_url(),
            "hermes_local_replies_total{code=\"queue_full\"}"
        )
        .await,
        1.0
    );
}

#[tokio::test]
async fn who_waited_in_vain_is_told_so_and_not_sent_to_an_engine() {
    let world = World::of(1).await;
    let mut replica = Replica::start("a", world.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let answer = tokio::spawn(send(chat(&proxy.url(), true, 1)));
    let question = replica.question().await;
    replica.queue(question.id, LONG);
    replica.refuse(question.id, Reason::QueueTimeout, Duration::ZERO);
    let answer = answer.await.expect("answered");
    assert_eq!(answer.headers()["retry-after"], "1", "nobody knows better");
    let (status, body) = json_of(answer).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (503, &"queue_timeout".into())
    );
    assert_eq!(world.engines[0].stats().requests, 0);
}

#[tokio::test]
async fn a_replica_that_forgets_who_waits_costs_what_it_said_and_no_more() {
    let policy = PoolPolicy {
        score_deadline: Duration::from_millis(500),
        ..PoolPolicy::default()
    };
    let world = World::with(1, policy).await;
    let mut replica = Replica::start("a", world.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let answer = asking(&proxy);
    let question = replica.question().await;
    replica.queue(question.id, Duration::from_millis(100));
    assert_eq!(answer.await.expect("answered"), 200);
    assert_eq!(replica.cancel().await, question.id, "the place is given up");
    assert_eq!(chosen_by(&proxy, "local").await, 1.0);
}

#[tokio::test]
async fn the_brain_is_told_of_the_tenant_only_what_tells_tenants_apart() {
    let world = World::of(1).await;
    let mut replica = Replica::start("a", world.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let mut tenants = Vec::new();
    for key in ["sk-one", "sk-two", "sk-one"] {
        let answer = tokio::spawn(send(chat(&proxy.url(), false, 1).bearer_auth(key)));
        let question = replica.question().await;
        replica.choose(question.id, world.first());
        assert_eq!(answer.await.expect("answered").status(), 200);
        tenants.push(question.tenant.expect("a hash of the key"));
    }
    assert!(tenants[0] == tenants[2] && tenants[0] != tenants[1]);
}
