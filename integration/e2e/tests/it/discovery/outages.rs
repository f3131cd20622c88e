//! Faults of the API server, after which the set of endpoints is correct again.

use std::time::Duration;

use hermes_control_plane::discovery::KubernetesSource;
use hermes_testkit::apiserver::ApiServer;
use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};

use super::pool::{NAMESPACE, Pool, not_ready, pod, pods, service, slice};

const A: &str = "http://10.0.0.1:8000";
const B: &str = "http://10.0.0.2:8000";

/// A server with the ready pods `a` and `b`, and a pool that has found both.
async fn two_pods() -> (ApiServer, Pool) {
    let api = ApiServer::start().await.expect("a free port");
    api.apply(&pod("a", "10.0.0.1"));
    api.apply(&pod("b", "10.0.0.2"));
    let mut pool = Pool::of_pods(&api);
    pool.await_endpoints(&[A, B]).await;
    (api, pool)
}

#[tokio::test]
async fn endpoints_stay_when_all_are_reported_not_ready_and_the_status_reports_it() {
    let (api, mut pool) = two_pods().await;
    // As after missed node heartbeats: the server comes back and reports every pod as not ready.
    api.stop().await;
    api.apply(&not_ready(pod("a", "10.0.0.1")));
    api.apply(&not_ready(pod("b", "10.0.0.2")));
    api.start_again().await.unwrap();
    pool.reports("both stay in use", |status| {
        status.doubted == 2 && status.endpoints == Some(2)
    })
    .await;
    assert_eq!(pool.endpoints().len(), 2);

    api.delete::<Pod>(NAMESPACE, "a");
    pool.await_endpoints(&[B]).await;
    api.apply(&pod("b", "10.0.0.2"));
    pool.reports("nothing is doubted", |status| status.doubted == 0)
        .await;
}

#[tokio::test]
async fn a_replaced_source_keeps_the_endpoints_that_it_finds_not_ready() {
    let (api, before) = two_pods().await;
    api.apply(&not_ready(pod("a", "10.0.0.1")));
    api.apply(&not_ready(pod("b", "10.0.0.2")));
    let mut pool = Pool::continuing(&api, pods(), &before.endpoints());
    pool.await_endpoints(&[A, B]).await;
    assert_eq!(pool.status().doubted, 2);
}

#[tokio::test]
async fn after_410_gone_the_new_list_is_compared_with_the_old_one() {
    let (api, mut pool) = two_pods().await;
    api.stop().await;
    api.delete::<Pod>(NAMESPACE, "a");
    // The deletion is in no history that a watch could still read.
    api.expire_watches();
    api.start_again().await.unwrap();
    pool.await_endpoints(&[B]).await;
    api.delete::<Pod>(NAMESPACE, "b");
    pool.await_endpoints(&[]).await;
}

#[tokio::test]
async fn a_watch_that_expires_while_it_runs_is_replaced() {
    let (api, mut pool) = two_pods().await;
    for _ in 0..3 {
        api.expire_watches();
        api.delete::<Pod>(NAMESPACE, "a");
        pool.await_endpoints(&[B]).await;
        api.apply(&pod("a", "10.0.0.1"));
        pool.await_endpoints(&[A, B]).await;
    }
}

#[tokio::test]
async fn a_watch_that_times_out_is_resumed_without_a_list() {
    let api = ApiServer::start().await.unwrap();
    api.limit_watches(Duration::from_millis(20));
    let mut pool = Pool::of_pods(&api);
    pool.await_endpoints(&[]).await;
    for _ in 0..5 {
        api.apply(&pod("a", "10.0.0.1"));
        pool.await_endpoints(&[A]).await;
        api.delete::<Pod>(NAMESPACE, "a");
        pool.await_endpoints(&[]).await;
    }
    let requests = api.requests();
    assert!(requests.watches > 3, "{requests:?}");
    assert_eq!((requests.lists, pool.status().failure()), (1, None));
}

#[tokio::test]
async fn a_deletion_during_a_dropped_connection_is_applied() {
    let (api, mut pool) = two_pods().await;
    api.drop_connections().await;
    api.delete::<Pod>(NAMESPACE, "a");
    pool.await_endpoints(&[B]).await;
    api.drop_connections().await;
    api.apply(&pod("a", "10.0.0.1"));
    pool.await_endpoints(&[A, B]).await;
}

#[tokio::test]
async fn the_last_set_stays_during_an_outage_and_is_correct_soon_after_it() {
    let (api, mut pool) = two_pods().await;
    api.stop().await;
    pool.reports("several failures", |status| status.watches[0].failures >= 4)
        .await;
    assert_eq!(pool.urls(), [A, B]);
    assert!(pool.status().synced(), "what was known once stays known");
    let (kind, _) = pool
        .status()
        .failure()
        .map(|(kind, failure)| (kind, failure.clone()))
        .unwrap();
    assert_eq!(kind, "pods");

    api.delete::<Pod>(NAMESPACE, "a");
    api.start_again().await.unwrap();
    let delay = pool.await_endpoints(&[B]).await;
    assert!(delay < Duration::from_secs(5), "{delay:?}");
    pool.reports("no failure", |status| status.failure().is_none())
        .await;
}

#[tokio::test]
async fn an_api_server_that_starts_late_is_connected() {
    let api = ApiServer::start().await.unwrap();
    api.stop().await;
    api.apply(&service("a"));
    api.apply(&slice("a-1", "a", &["10.0.0.1"]));
    let mut pool = Pool::of_services(&api);
    pool.reports("both kinds failing", |status| {
        status.watches.iter().all(|watch| watch.failures > 0)
    })
    .await;
    assert_eq!(
        pool.status().endpoints,
        None,
        "nothing is known, which is not the same as nothing there"
    );
    api.start_again().await.unwrap();
    pool.await_endpoints(&[A]).await;
}

#[tokio::test]
async fn without_permission_for_one_kind_nothing_is_published_and_the_reason_is_reported() {
    let api = ApiServer::start().await.unwrap();
    api.forbid::<EndpointSlice>();
    api.apply(&service("a"));
    api.apply(&slice("a-1", "a", &["10.0.0.1"]));
    let mut pool = Pool::of_services(&api);
    pool.reports("slices forbidden, services known", |status| {
        let forbidden = status.failure().is_some_and(|(kind, failure)| {
            kind == "endpointslices" && failure.error.contains("forbidden")
        });
        forbidden && status.watches[0].synced && !status.synced()
    })
    .await;
    assert_eq!(pool.status().endpoints, None);
    api.permit_all();
    pool.await_endpoints(&[A]).await;
}

#[tokio::test]
async fn a_slow_list_is_awaited_and_an_endless_one_is_started_again() {
    let api = ApiServer::start().await.unwrap();
    api.apply(&pod("a", "10.0.0.1"));
    api.delay_lists(Duration::from_secs(3600));
    let mut pool = Pool::start(
        &api,
        KubernetesSource {
            timeout: Duration::from_millis(500),
            ..pods()
        },
    );
    pool.reports("a list given up", |status| status.watches[0].failures > 0)
        .await;
    api.delay_lists(Duration::from_millis(100));
    pool.await_endpoints(&[A]).await;
}

#[tokio::test]
async fn a_connection_that_is_silently_dead_is_repaired_by_the_resync() {
    let api = ApiServer::start().await.unwrap();
    api.apply(&pod("a", "10.0.0.1"));
    let mut pool = Pool::start(
        &api,
        KubernetesSource {
            resync: Duration::from_secs(2),
            ..pods()
        },
    );
    pool.await_endpoints(&[A]).await;
    api.freeze_watches();
    api.apply(&pod("b", "10.0.0.2"));
    pool.await_endpoints(&[A, B]).await;
    assert_eq!(pool.status().failure(), None);
}
