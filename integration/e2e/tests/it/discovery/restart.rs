//! A control plane that restarts while its API server is unreachable: proxies keep the endpoints
//! and models that they have.

use std::{net::SocketAddr, sync::Arc};

use hermes_bench::fleet::{self, Plane, control_plane_with};
use hermes_control_plane::{
    app::{ConfigSource, ControlPlane, Options},
    config::Config,
    discovery::client as kubernetes,
};
use hermes_engine_sim::Engine;
use hermes_testkit::apiserver::ApiServer;
use serde_json::Value;

use super::pool::{NAMESPACE, pod};
use crate::client::{chat, client, eventually, metric, send};

/// Replicas that the proxy is connected to.
const CONNECTED: &str = "hermes_connected_control_planes";

/// A control plane with a pool of pods and a static pool, both with models that only their engines
/// report.
async fn control_plane(
    api: &ApiServer,
    engine: SocketAddr,
    listen: SocketAddr,
    replica: &Arc<str>,
) -> Plane<ControlPlane> {
    hermes_runtime::crypto::install_default_crypto();
    let url = api.url().parse().expect("an address is a URL");
    let kube = kubernetes::connect(kube::Config::new(url)).expect("plain HTTP");
    let yaml = format!(
        "pools:\n\
         - name: chat\n  kubernetes: {{namespace: {NAMESPACE}, pods: {{app: vllm}}, port: {}}}\n\
         - name: other\n  endpoints: ['http://127.0.0.1:1']\n",
        engine.port()
    );
    let config = Config::parse(&yaml).expect("a configuration of this test");
    let options = Options {
        listen,
        kube: Some(kube),
        replica: Some(Arc::clone(replica)),
        ..Options::local(ConfigSource::Value(config))
    };
    control_plane_with(options).await.expect("starts")
}

/// The epoch of the snapshot that the proxy uses.
async fn epoch(admin: &str) -> u64 {
    let url = format!("{admin}/debug/snapshot");
    let page = client().get(url).send().await.expect("answers");
    let page: Value = page.json().await.expect("JSON");
    page["snapshot"]["epoch"].as_u64().expect("an epoch")
}

#[tokio::test]
async fn requests_succeed_while_the_only_control_plane_restarts_without_its_api_server() {
    let api = ApiServer::start().await.expect("a free port");
    let engine = Engine::start(fleet::instant()).await.expect("starts");
    api.apply(&pod("a", "127.0.0.1"));
    let (any, replica) = (
        SocketAddr::from(([127, 0, 0, 1], 0)),
        Arc::from("replica-0"),
    );
    let first = control_plane(&api, engine.addr(), any, &replica).await;
    let listen = first.bound.grpc;
    let proxy = fleet::proxy(&[listen]).await.expect("starts");
    let admin = format!("http://{}", proxy.bound.admin.expect("an admin port"));
    eventually("the pod serves", || async {
        send(chat(&proxy.url(), false, 1)).await.status() == 200
    })
    .await;
    let before = epoch(&admin).await;

    api.stop().await;
    assert_eq!(metric(&admin, CONNECTED).await, 1.0);
    drop(first);
    eventually("its connections are closed", || async {
        metric(&admin, CONNECTED).await == 0.0
    })
    .await;
    let again = control_plane(&api, engine.addr(), listen, &replica).await;
    eventually("the proxy has a snapshot of the new process", || async {
        epoch(&admin).await != before
    })
    .await;
    for _ in 0..20 {
        assert_eq!(send(chat(&proxy.url(), false, 1)).await.status(), 200);
    }

    api.start_again().await.expect("its port is free");
    eventually("the control plane has listed", || async {
        again.bound.readiness.missing().is_empty()
    })
    .await;
    assert_eq!(send(chat(&proxy.url(), false, 1)).await.status(), 200);
}
