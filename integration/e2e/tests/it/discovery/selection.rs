//! Which objects become endpoints.

use std::time::Duration;

use hermes_control_plane::discovery::Selection;
use hermes_testkit::apiserver::{ApiServer, Collection};
use k8s_openapi::{
    api::{
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::json;

use super::pool::{NAMESPACE, Pool, labels, not_ready, pod, service, slice, source};

#[tokio::test]
async fn ready_pods_appear_and_leave_when_they_are_not_ready_or_terminating_or_deleted() {
    let api = ApiServer::start().await.unwrap();
    api.apply(&pod("a", "10.0.0.1"));
    let mut pool = Pool::of_pods(&api);
    pool.await_endpoints(&["http://10.0.0.1:8000"]).await;

    api.apply(&pod("b", "10.0.0.2"));
    api.apply(&not_ready(pod("c", "10.0.0.3")));
    pool.await_endpoints(&["http://10.0.0.1:8000", "http://10.0.0.2:8000"])
        .await;

    api.apply(&not_ready(pod("a", "10.0.0.1")));
    pool.await_endpoints(&["http://10.0.0.2:8000"]).await;

    api.apply(&pod("c", "10.0.0.3"));
    pool.await_endpoints(&["http://10.0.0.2:8000", "http://10.0.0.3:8000"])
        .await;

    let mut terminating = pod("b", "10.0.0.2");
    terminating.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
    api.apply(&terminating);
    pool.await_endpoints(&["http://10.0.0.3:8000"]).await;

    assert!(api.delete::<Pod>(NAMESPACE, "a"));
    assert!(api.delete::<Pod>(NAMESPACE, "c"));
    pool.await_endpoints(&[]).await;
}

#[tokio::test]
async fn a_change_arrives_within_300_ms() {
    let api = ApiServer::start().await.unwrap();
    let mut pool = Pool::of_pods(&api);
    pool.await_endpoints(&[]).await;
    let mut delays = Vec::new();
    for _ in 0..4 {
        api.apply(&pod("a", "10.0.0.1"));
        delays.push(pool.await_endpoints(&["http://10.0.0.1:8000"]).await);
        api.delete::<Pod>(NAMESPACE, "a");
        delays.push(pool.await_endpoints(&[]).await);
    }
    // A busy machine may hold up a single one.
    delays.sort();
    assert!(
        delays[delays.len() / 2] < Duration::from_millis(300),
        "{delays:?}"
    );
}

#[tokio::test]
async fn a_recreated_pod_at_the_same_address_is_another_incarnation() {
    let api = ApiServer::start().await.unwrap();
    api.apply(&pod("a", "10.0.0.1"));
    let mut pool = Pool::of_pods(&api);
    pool.await_endpoints(&["http://10.0.0.1:8000"]).await;
    let first = pool.endpoints().remove(0);
    assert_eq!(first.name, "ai/a");

    api.delete::<Pod>(NAMESPACE, "a");
    pool.await_endpoints(&[]).await;
    api.apply(&pod("a", "10.0.0.1"));
    pool.await_endpoints(&["http://10.0.0.1:8000"]).await;
    assert_ne!(pool.endpoints().remove(0).uid, first.uid);
}

#[tokio::test]
async fn services_are_resolved_through_their_slices() {
    let api = ApiServer::start().await.unwrap();
    api.apply(&service("a"));
    api.apply(&slice("a-1", "a", &["10.0.0.1", "10.0.0.2"]));
    api.apply(&slice("other-1", "other", &["10.0.0.9"]));
    let mut pool = Pool::of_services(&api);
    pool.await_endpoints(&["http://10.0.0.1:8000", "http://10.0.0.2:8000"])
        .await;

    let mut draining = slice("a-1", "a", &["10.0.0.1", "10.0.0.2"]);
    if let Some(conditions) = &mut draining.endpoints[0].conditions {
        (conditions.ready, conditions.terminating) = (Some(false), Some(true));
    }
    api.apply(&draining);
    pool.await_endpoints(&["http://10.0.0.2:8000"]).await;

    api.delete::<EndpointSlice>(NAMESPACE, "a-1");
    pool.await_endpoints(&[]).await;
}

#[tokio::test]
async fn a_service_that_loses_its_label_takes_its_endpoints_along() {
    let api = ApiServer::start().await.unwrap();
    api.apply(&service("a"));
    api.apply(&slice("a-1", "a", &["10.0.0.1"]));
    let mut pool = Pool::of_services(&api);
    pool.await_endpoints(&["http://10.0.0.1:8000"]).await;

    let mut relabeled = service("a");
    relabeled.metadata.labels = Some(labels("something-else"));
    api.apply(&relabeled);
    pool.await_endpoints(&[]).await;

    api.apply(&service("a"));
    pool.await_endpoints(&["http://10.0.0.1:8000"]).await;
    api.delete::<Service>(NAMESPACE, "a");
    pool.await_endpoints(&[]).await;
}

#[tokio::test]
async fn objects_in_other_namespaces_are_not_seen() {
    let api = ApiServer::start().await.unwrap();
    let mut elsewhere = pod("x", "10.0.0.9");
    elsewhere.metadata.namespace = Some("other".to_owned());
    api.apply(&elsewhere);
    api.apply(&pod("a", "10.0.0.1"));
    let mut pool = Pool::of_pods(&api);
    pool.await_endpoints(&["http://10.0.0.1:8000"]).await;
}

#[tokio::test]
async fn a_malformed_object_is_skipped_and_ends_no_watch() {
    let api = ApiServer::start().await.unwrap();
    let pods = Collection::of::<Pod>();
    let malformed = |name: &str| {
        let metadata = json!({"name": name, "namespace": NAMESPACE, "labels": {"app": "vllm"}});
        json!({"metadata": metadata, "status": {"conditions": "not a list", "podIP": 7}})
    };
    api.apply_value(&pods, malformed("in-the-list"));
    api.apply(&pod("a", "10.0.0.1"));
    let mut pool = Pool::of_pods(&api);
    pool.await_endpoints(&["http://10.0.0.1:8000"]).await;

    api.apply_value(&pods, malformed("in-the-watch"));
    api.apply(&pod("b", "10.0.0.2"));
    pool.await_endpoints(&["http://10.0.0.1:8000", "http://10.0.0.2:8000"])
        .await;

    api.apply_value(&pods, malformed("a"));
    api.apply(&pod("c", "10.0.0.3"));
    pool.await_endpoints(&[
        "http://10.0.0.1:8000",
        "http://10.0.0.2:8000",
        "http://10.0.0.3:8000",
    ])
    .await;
    api.delete::<Pod>(NAMESPACE, "a");
    pool.await_endpoints(&["http://10.0.0.2:8000", "http://10.0.0.3:8000"])
        .await;
    assert_eq!(pool.status().failure(), None);
    assert_eq!(api.requests().lists, 1, "nothing had to be listed again");
}

#[tokio::test]
async fn a_thousand_endpoints_come_and_go() {
    let api = ApiServer::start().await.unwrap();
    let ip = |n: usize| format!("10.0.{}.{}", n / 250, n % 250 + 1);
    let name = |n: usize| format!("engine-{n}");
    // Half are found by the list, in two pages, and half by the watch.
    for n in 0..500 {
        api.apply(&pod(&name(n), &ip(n)));
    }
    api.apply(&not_ready(pod("extra", "10.1.0.1")));
    let mut pool = Pool::of_pods(&api);
    pool.counts(500).await;
    assert_eq!(api.requests().lists, 2, "a page holds 500");
    for n in 500..1000 {
        api.apply(&pod(&name(n), &ip(n)));
    }
    pool.counts(1000).await;
    for n in 0..1000 {
        api.delete::<Pod>(NAMESPACE, &name(n));
    }
    pool.await_endpoints(&[]).await;
}

#[tokio::test]
async fn unusable_addresses_are_counted_and_not_published() {
    let api = ApiServer::start().await.unwrap();
    api.apply(&service("a"));
    api.apply(&slice("a-1", "a", &["10.0.0.1"]));
    let mut pool = Pool::start(&api, source(Selection::Services(labels("vllm")), "grpc"));
    pool.reports("one endpoint left out", |status| status.left_out == 1)
        .await;
    assert_eq!(pool.status().endpoints, Some(0));
}
