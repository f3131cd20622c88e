//! Queueing at the control plane, from the proxy's side: a scripted replica, a real proxy,
//! simulated engines.

use std::{sync::Arc, time::Duration};

use hermes_bench::fleet::Plane;
use hermes_core::{
    inference_pool::Objective,
    policy::{PoolPolicy, TenantKey},
    snapshot::{Pool, PoolSpec},
};
use hermes_data_plane::app as data;
use hermes_proto::v1::rejected::Reason;
use hermes_testkit::replica::Replica;
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    client::{chat, eventually, json_of, metric, send},
    proxy_context::{ProxyContext, chosen_by, proxy_of},
};

/// Longer than any of these tests.
const LONG: Duration = Duration::from_secs(600);

/// Sends a request in a task, which returns the status of the response.
fn send_in_background(proxy: &Plane<data::DataPlane>) -> JoinHandle<u16> {
    let request = chat(&proxy.url(), false, 1);
    tokio::spawn(async move { send(request).await.status().as_u16() })
}

async fn await_queued(proxy: &Plane<data::DataPlane>, count: f64) {
    let admin = proxy.admin_url();
    eventually("the number of waiting requests", || async {
        metric(&admin, "hermes_queued_requests{pool=\"chat\"}").await == count
    })
    .await;
}

#[tokio::test]
async fn a_queued_request_goes_to_the_endpoint_of_its_assignment() {
    let context = ProxyContext::of(2).await;
    let mut replica = Replica::start("a", context.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let answer = send_in_background(&proxy);
    let question = replica.question().await;
    assert!(question.may_wait && question.tenant.is_none() && question.waited_ms == 0);
    replica.queue(question.id, LONG);
    await_queued(&proxy, 1.0).await;
    assert!(!answer.is_finished());
    replica.choose(question.id, context.first());
    assert_eq!(answer.await.expect("answered"), 200);
    await_queued(&proxy, 0.0).await;
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
async fn queued_requests_are_routed_by_the_proxy_when_the_stream_breaks() {
    let context = ProxyContext::of(2).await;
    let mut replica = Replica::start("a", context.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let answers: Vec<_> = (0..5).map(|_| send_in_background(&proxy)).collect();
    for _ in 0..5 {
        let question = replica.question().await;
        replica.queue(question.id, LONG);
    }
    await_queued(&proxy, 5.0).await;
    let broken = Instant::now();
    drop(replica);
    for answer in answers {
        assert_eq!(answer.await.expect("answered"), 200);
    }
    assert!(
        broken.elapsed() < Duration::from_secs(5),
        "no request waits for its deadline"
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
async fn queued_requests_keep_their_queue_time_when_the_owner_changes() {
    let context = ProxyContext::of(1).await;
    let mut replicas = Vec::new();
    for name in ["a", "b"] {
        replicas.push(
            Replica::start(name, context.snapshot.clone())
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
    let mut successor = replicas.remove(0);

    let answer = send_in_background(&proxy);
    let question = owner.question().await;
    owner.queue(question.id, LONG);
    await_queued(&proxy, 1.0).await;
    let since = Instant::now();
    eventually("it has waited a while", || async {
        since.elapsed() > Duration::from_millis(1)
    })
    .await;
    drop(owner);
    let again = successor.question().await;
    assert!(again.id == question.id && again.waited_ms > 0, "{again:?}");
    successor.choose(again.id, context.first());
    assert_eq!(answer.await.expect("answered"), 200);
    assert_eq!(chosen_by(&proxy, "score").await, 1.0);
}

#[tokio::test]
async fn a_disconnect_cancels_the_queued_request() {
    let context = ProxyContext::of(1).await;
    let mut replica = Replica::start("a", context.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let client = send_in_background(&proxy);
    let question = replica.question().await;
    replica.queue(question.id, LONG);
    await_queued(&proxy, 1.0).await;
    client.abort();
    assert_eq!(replica.cancel().await, question.id);
    await_queued(&proxy, 0.0).await;
    assert_eq!(context.engines[0].stats().requests, 0);
}

#[tokio::test]
async fn a_full_queue_is_reported_to_the_client_and_reaches_no_engine() {
    let context = ProxyContext::of(1).await;
    let mut replica = Replica::start("a", context.snapshot.clone())
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
    assert_eq!(context.engines[0].stats().requests, 0);
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
async fn a_queue_timeout_is_reported_to_the_client_and_reaches_no_engine() {
    let context = ProxyContext::of(1).await;
    let mut replica = Replica::start("a", context.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let answer = tokio::spawn(send(chat(&proxy.url(), true, 1)));
    let question = replica.question().await;
    replica.queue(question.id, LONG);
    replica.refuse(question.id, Reason::QueueTimeout, Duration::ZERO);
    let answer = answer.await.expect("answered");
    assert_eq!(answer.headers()["retry-after"], "1", "the default");
    let (status, body) = json_of(answer).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (503, &"queue_timeout".into())
    );
    assert_eq!(context.engines[0].stats().requests, 0);
}

#[tokio::test]
async fn a_replica_that_never_answers_delays_a_queued_request_by_the_announced_limit_at_most() {
    let policy = PoolPolicy {
        score_deadline: Duration::from_millis(500),
        ..PoolPolicy::default()
    };
    let context = ProxyContext::with(1, policy).await;
    let mut replica = Replica::start("a", context.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let answer = send_in_background(&proxy);
    let question = replica.question().await;
    replica.queue(question.id, Duration::from_millis(100));
    assert_eq!(answer.await.expect("answered"), 200);
    assert_eq!(replica.cancel().await, question.id, "the place is given up");
    assert_eq!(chosen_by(&proxy, "local").await, 1.0);
}

#[tokio::test]
async fn only_a_hash_of_the_tenants_key_is_sent_to_the_control_plane() {
    let policy = PoolPolicy {
        tenant: TenantKey::Key,
        score_deadline: Duration::from_secs(5),
        ..PoolPolicy::default()
    };
    let context = ProxyContext::with(1, policy).await;
    let mut replica = Replica::start("a", context.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    let mut tenants = Vec::new();
    for key in ["sk-one", "sk-two", "sk-one"] {
        let answer = tokio::spawn(send(chat(&proxy.url(), false, 1).bearer_auth(key)));
        let question = replica.question().await;
        replica.choose(question.id, context.first());
        assert_eq!(answer.await.expect("answered").status(), 200);
        tenants.push(question.tenant.expect("a hash of the key"));
    }
    assert!(tenants[0] == tenants[2] && tenants[0] != tenants[1]);
}

#[tokio::test]
async fn an_objective_gives_its_priority_and_control_headers_reach_no_engine() {
    let mut context = ProxyContext::of(1).await;
    let pool = &context.snapshot.pools[0];
    let spec = PoolSpec {
        objectives: [Objective {
            name: "batch".into(),
            priority: -3,
        }]
        .into(),
        ..PoolSpec::clone(&pool.spec)
    };
    let pool = Pool {
        spec: Arc::new(spec),
        ..Pool::clone(pool)
    };
    context.snapshot.pools = vec![Arc::new(pool)].into();
    let mut replica = Replica::start("a", context.snapshot.clone())
        .await
        .expect("starts");
    let proxy = proxy_of(&[&replica]).await;
    for (header, value, priority) in [
        ("x-llm-d-inference-objective", "batch", -3),
        ("x-gateway-inference-objective", "batch", -3),
        ("x-llm-d-inference-objective", "unknown", 0),
        ("x-gateway-destination-endpoint", "10.0.0.1:80", 0),
        ("x-gateway-model-name", "other", 0),
    ] {
        let request = chat(&proxy.url(), false, 1).header(header, value);
        let answer = tokio::spawn(send(request));
        let question = replica.question().await;
        assert_eq!(question.priority, priority, "{header}: {value}");
        replica.choose(question.id, context.first());
        assert_eq!(answer.await.expect("answered").status(), 200);
    }
    let seen = context.engines[0].requests();
    for name in ["x-gateway-destination-endpoint", "x-gateway-model-name"] {
        assert!(
            seen.iter().all(|seen| seen.header(name).is_none()),
            "{name}"
        );
    }
}
