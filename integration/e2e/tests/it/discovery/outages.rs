//! What the API server may do wrong, and that the set is right afterwards.

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
    pool.becomes(&[A, B]).await;
    (api, pool)
}

#[tokio::test]
async fn a_fleet_that_is_called_not_ready_as_a_whole_stays_and_the_status_says_so() {
    let (api, mut pool) = two_pods().await;
    // As when nodes were not heard of: the server comes back, and says of every pod that it is not ready.
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
    pool.becomes(&[B]).await;
    api.apply(&pod("b", "10.0.0.2"));
    pool.reports("nothing is doubted", |status| status.doubted == 0)
        .await;
}

#[tokio::test]
async fn after_410_gone_the_difference_between_the_lists_is_noticed() {
    let (api, mut pool) = two_pods().await;
    api.stop().await;
    api.delete::<Pod>(NAMESPACE, "a");
    // The deletion is in no history that a watch could still read.
    api.expire_watches();
    api.start_again().await.unwrap();
    pool.becomes(&[B]).await;
    api.delete::<Pod>(NAMESPACE, "b");
    pool.becomes(&[]).await;
}

#[tokio::test]
async fn a_watch_that_expires_while_it_runs_is_replaced() {
    let (api, mut pool) = two_pods().await;
    for _ in 0..3 {
        api.expire_watches();
        api.delete::<Pod>(NAMESPACE, "a");
        pool.becomes(&[B]).await;
        api.apply(&pod("a", "10.0.0.1"));
        pool.becomes(&[A, B]).await;
    }
}

#[tokio::test]
async fn a_watch_whose_time_is_up_is_resumed_without_a_list() {
    let api = ApiServer::start().await.unwrap();
    api.limit_watches(Duration::from_millis(20));
    let mut pool = Pool::of_pods(&api);
    pool.becomes(&[]).await;
    for _ in 0..5 {
        api.apply(&pod("a", "10.0.0.1"));
        pool.becomes(&[A]).await;
        api.delete::<Pod>(NAMESPACE, "a");
        pool.becomes(&[]).await;
    }
    let requests = api.requests();
    assert!(requests.watches > 3, "{requests:?}");
    assert_eq!((requests.lists, pool.status().failure()), (1, None));
}

#[tokio::test]
async fn a_deletion_during_a_dropped_connection_is_noticed() {
    let (api, mut pool) = two_pods().await;
    api.drop_connections().await;
    api.delete::<Pod>(NAMESPACE, "a");
    pool.becomes(&[B]).await;
    api.drop_connections().await;
    api.apply(&pod("a", "10.0.0.1"));
    pool.becomes(&[A, B]).await;
}

#[tokio::test]
async fn while_the_server_is_away_the_last_set_stays_and_soon_after_it_is_right_again() {
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
    let delay = pool.becomes(&[B]).await;
    assert!(delay < Duration::from_secs(5), "{delay:?}");
    pool.reports("no failure", |status| status.failure().is_none())
        .await;
}

#[tokio::test]
async fn a_server_that_comes_up_late_is_found() {
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
    pool.becomes(&[A]).await;
}

#[tokio::test]
async fn without_the_right_to_one_kind_nothing_is_published_and_the_reason_is_told() {
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
    pool.becomes(&[A]).await;
}

#[tokio::test]
async fn a_slow_list_is_waited_for_and_an_endless_one_is_begun_anew() {
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
    pool.becomes(&[A]).await;
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
    pool.becomes(&[A]).await;
    api.freeze_watches();
    api.apply(&pod("b", "10.0.0.2"));
    pool.becomes(&[A, B]).await;
    assert_eq!(pool.status().failure(), None);
}
