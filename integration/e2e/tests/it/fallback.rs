//! The fallback chain of a proxy: a control plane that is slow, gone, restarted or replicated.

use std::time::Duration;

use hermes_bench::fleet;
use hermes_bench::fleet::{Fleet, Scene};
use hermes_control_plane::app::ConfigSource;
use hermes_control_plane::config::Config;
use hermes_engine_sim::Fault;
use tokio::time::Instant;

use crate::client::{chat, client, eventually, metric, send};

async fn chosen_by(fleet: &Fleet, level: &str) -> f64 {
    let series = format!("hermes_endpoint_selections_total{{pool=\"chat\",level=\"{level}\"}}");
    metric(&fleet.proxies[0].admin_url(), &series).await
}

async fn connected(fleet: &Fleet, replicas: f64) {
    let admin = fleet.proxies[0].admin_url();
    eventually("the number of connected control planes", || async {
        metric(&admin, "hermes_connected_control_planes").await == replicas
    })
    .await;
}

async fn is_ready(fleet: &Fleet) -> bool {
    let url = format!("{}/readyz", fleet.proxies[0].admin_url());
    client().get(url).send().await.expect("answers").status() == 200
}

#[tokio::test]
async fn a_score_in_time_selects_the_endpoint() {
    let fleet = Scene::of(3, "kv-aware").start().await.expect("starts");
    for _ in 0..5 {
        assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 200);
    }
    assert_eq!(chosen_by(&fleet, "score").await, 5.0);
}

#[tokio::test]
async fn without_a_control_plane_a_stored_response_is_not_reported_as_missing() {
    let mut fleet = Scene::of(2, "round-robin").start().await.expect("starts");
    fleet.control_planes.clear();
    connected(&fleet, 0.0).await;
    let stored = format!("{}/v1/responses/resp_of_another_proxy", fleet.url());
    let response = send(client().get(stored)).await;
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "1");
    let body: serde_json::Value = response.json().await.expect("JSON");
    assert_eq!(body["error"]["code"], "response_not_located");
}

#[tokio::test]
async fn without_a_control_plane_the_last_snapshot_is_used() {
    let mut fleet = Scene::of(3, "kv-aware").start().await.expect("starts");
    fleet.control_planes.clear();
    connected(&fleet, 0.0).await;
    assert!(
        is_ready(&fleet).await,
        "a proxy that lost its control plane stays ready"
    );
    for _ in 0..5 {
        assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 200);
    }
    assert_eq!(chosen_by(&fleet, "score").await, 0.0);
    assert_eq!(
        chosen_by(&fleet, "local").await + chosen_by(&fleet, "power-of-two").await,
        5.0
    );

    // Loads become stale: from then on only the proxy's own requests in flight count.
    eventually("stale loads are not used", || async {
        assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 200);
        chosen_by(&fleet, "power-of-two").await > 0.0
    })
    .await;
}

#[tokio::test]
async fn when_every_endpoint_is_down_the_panic_level_tries_any() {
    let fleet = Scene::of(2, "round-robin").start().await.expect("starts");
    for engine in &fleet.engines {
        engine.faults().set(Fault::RefuseConnections);
    }
    let admin = fleet.proxies[0].admin_url();
    eventually("both are down", || async {
        assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 502);
        metric(&admin, "hermes_endpoints{pool=\"chat\",health=\"down\"}").await == 2.0
    })
    .await;
    for engine in &fleet.engines {
        engine.faults().clear();
    }
    assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 200);
    assert!(chosen_by(&fleet, "panic").await > 0.0);
}

#[tokio::test]
async fn before_its_first_snapshot_a_proxy_is_not_ready_and_reports_it() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    let proxy = fleet::proxy(&[closed]).await.expect("starts");
    let ready = client()
        .get(format!("{}/readyz", proxy.admin_url()))
        .send()
        .await
        .expect("answers");
    assert_eq!(ready.status(), 503);
    assert!(ready.text().await.expect("text").contains("snapshot"));
    let refused = send(chat(&proxy.url(), false, 1)).await;
    assert_eq!(
        (
            refused.status().as_u16(),
            refused.headers().contains_key("retry-after")
        ),
        (503, true)
    );
}

#[tokio::test]
async fn a_restarted_control_plane_is_connected_again_and_used() {
    let mut fleet = Scene::of(2, "kv-aware").start().await.expect("starts");
    let address = fleet.control_planes[0].bound.grpc;
    let urls: Vec<String> = fleet.engines.iter().map(|engine| engine.url()).collect();
    fleet.control_planes.clear();
    connected(&fleet, 0.0).await;
    let yaml = format!(
        "pools: [{{name: chat, endpoints: [{}], strategy: kv-aware}}]",
        urls.join(", ")
    );
    let config = ConfigSource::Value(Config::parse(&yaml).expect("valid"));
    let again = fleet::control_plane_at(config, address)
        .await
        .expect("the port is free again");
    connected(&fleet, 1.0).await;
    let before = chosen_by(&fleet, "score").await;
    // It is not asked before it has read the models of the engines.
    eventually("its answers are used", || async {
        assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 200);
        chosen_by(&fleet, "score").await > before
    })
    .await;
    drop(again);
}

/// Runs eight clients for two seconds and asserts that every request succeeds. Returns the number
/// of requests.
async fn under_load(urls: Vec<String>) -> usize {
    let (client, deadline, mut answered) = (client(), Instant::now() + Duration::from_secs(2), 0);
    let body = serde_json::json!({"model": "sim", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]});
    while Instant::now() < deadline {
        let batch = (0..8).map(|_| async {
            for url in &urls {
                // A connection that ends before an answer began is what SDKs retry, and then reach
                // another proxy.
                if let Ok(response) = client
                    .post(format!("{url}/v1/chat/completions"))
                    .json(&body)
                    .send()
                    .await
                {
                    return response.status().as_u16();
                }
            }
            panic!("no proxy answered")
        });
        let statuses = futures::future::join_all(batch).await;
        assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");
        answered += statuses.len();
    }
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_a_replica_under_load_fails_no_request() {
    let scene = Scene {
        control_planes: 3,
        ..Scene::of(3, "kv-aware")
    };
    let mut fleet = scene.start().await.expect("starts");
    connected(&fleet, 3.0).await;
    let load = tokio::spawn(under_load(vec![fleet.url()]));
    eventually("the load runs", || async {
        chosen_by(&fleet, "score").await > 20.0
    })
    .await;
    fleet.control_planes.pop();
    connected(&fleet, 2.0).await;
    fleet.control_planes.pop();
    connected(&fleet, 1.0).await;
    assert!(load.await.expect("every request was answered") > 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_an_engine_under_load_fails_no_request() {
    let fleet = Scene::of(3, "kv-aware").start().await.expect("starts");
    let load = tokio::spawn(under_load(vec![fleet.url()]));
    eventually("the load runs", || async {
        fleet.engines[0].stats().requests > 10
    })
    .await;
    fleet.engines[0].kill().await;
    assert!(load.await.expect("every request was answered") > 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn terminating_a_proxy_under_load_fails_no_request() {
    let scene = Scene {
        proxies: 2,
        ..Scene::of(3, "kv-aware")
    };
    let mut fleet = scene.start().await.expect("starts");
    let urls = fleet
        .proxies
        .iter()
        .map(hermes_bench::fleet::Plane::url)
        .collect();
    let load = tokio::spawn(under_load(urls));
    eventually("the load runs", || async {
        chosen_by(&fleet, "score").await > 20.0
    })
    .await;
    fleet.proxies.remove(0).stop().await;
    assert!(load.await.expect("every request was answered") > 50);
}
