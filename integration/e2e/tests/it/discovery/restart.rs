//! Control planes that restart while their API server is unreachable: proxies keep the endpoints
//! and models that they have.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hermes_bench::fleet::{self, Plane, control_plane_with};
use hermes_control_plane::{
    app::{ConfigSource, ControlPlane, Options},
    config::Config,
    discovery::client as kubernetes,
};
use hermes_data_plane::app::DataPlane;
use hermes_engine_sim::{Engine, EngineHandle};
use hermes_testkit::apiserver::ApiServer;
use serde_json::Value;
use tokio::task::JoinSet;

use super::pool::{NAMESPACE, not_ready, pod};
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

/// A proxy whose only control plane has discovered one pod, which serves.
struct ServingPod {
    api: ApiServer,
    engine: EngineHandle,
    replica: Arc<str>,
    proxy: Plane<DataPlane>,
    admin: String,
}

impl ServingPod {
    async fn start() -> (Self, Plane<ControlPlane>) {
        let api = ApiServer::start().await.expect("a free port");
        let engine = Engine::start(fleet::instant()).await.expect("starts");
        api.apply(&pod("a", "127.0.0.1"));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let replica = Arc::from("replica-0");
        let first = control_plane(&api, engine.addr(), any, &replica).await;
        let proxy = fleet::proxy(&[first.bound.grpc]).await.expect("starts");
        let admin = format!("http://{}", proxy.bound.admin.expect("an admin port"));
        let serving = Self {
            api,
            engine,
            replica,
            proxy,
            admin,
        };
        eventually("the pod serves", || async { serving.chat().await == 200 }).await;
        (serving, first)
    }

    /// The status of a chat.
    async fn chat(&self) -> u16 {
        let response = send(chat(&self.proxy.url(), false, 1)).await;
        response.status().as_u16()
    }

    /// Starts another process in place of `first`, and waits until the proxy routes by it.
    async fn replaced(&self, first: Plane<ControlPlane>) -> Plane<ControlPlane> {
        let (listen, before) = (first.bound.grpc, epoch(&self.admin).await);
        assert_eq!(metric(&self.admin, CONNECTED).await, 1.0);
        drop(first);
        eventually("its connections are closed", || async {
            metric(&self.admin, CONNECTED).await == 0.0
        })
        .await;
        let again = control_plane(&self.api, self.engine.addr(), listen, &self.replica).await;
        eventually("the proxy has a snapshot of the new process", || async {
            epoch(&self.admin).await != before
        })
        .await;
        again
    }

    async fn assert_all_answered(&self) {
        for _ in 0..20 {
            assert_eq!(self.chat().await, 200);
        }
    }
}

async fn has_listed(plane: &Plane<ControlPlane>) {
    eventually("the control plane has listed", || async {
        plane.bound.readiness.missing().is_empty()
    })
    .await;
}

#[tokio::test]
async fn requests_succeed_while_the_only_control_plane_restarts_without_its_api_server() {
    let (serving, first) = ServingPod::start().await;
    serving.api.stop().await;
    let again = serving.replaced(first).await;
    serving.assert_all_answered().await;

    serving.api.start_again().await.expect("its port is free");
    has_listed(&again).await;
    assert_eq!(serving.chat().await, 200);
}

#[tokio::test]
async fn requests_succeed_while_the_only_control_plane_restarts_and_finds_all_pods_not_ready() {
    let (serving, first) = ServingPod::start().await;
    // As after an outage of the API server, in which nodes could not report.
    serving.api.apply(&not_ready(pod("a", "127.0.0.1")));
    let again = serving.replaced(first).await;
    has_listed(&again).await;
    serving.assert_all_answered().await;
}

/// Requests without a pause, by some clients at once, until it is dropped.
struct SteadyLoad {
    answered: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    _clients: JoinSet<()>,
}

impl SteadyLoad {
    fn on(url: &str) -> Self {
        let (answered, failed) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let mut clients = JoinSet::new();
        for _ in 0..4 {
            let (url, answered, failed) = (url.to_owned(), answered.clone(), failed.clone());
            let client = client();
            clients.spawn(async move {
                loop {
                    let request = chat(&url, true, 2).build().expect("a request");
                    let response = client.execute(request).await.expect("an answer");
                    let is_answered = response.status() == 200;
                    response.bytes().await.expect("a whole answer");
                    let counter = if is_answered { &answered } else { &failed };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self {
            answered,
            failed,
            _clients: clients,
        }
    }

    /// Waits for a hundred more answers.
    async fn goes_on(&self, phase: &'static str) {
        let before = self.answered.load(Ordering::Relaxed);
        eventually(phase, || {
            std::future::ready(self.answered.load(Ordering::Relaxed) > before + 100)
        })
        .await;
        assert_eq!(self.failed.load(Ordering::Relaxed), 0, "{phase}");
    }
}

/// All replicas end under load while the API server is away, all start again, and the API server
/// returns at last.
async fn no_request_fails_while_all_restart(replicas: usize) {
    let api = ApiServer::start().await.expect("a free port");
    let engine = Engine::start(fleet::instant()).await.expect("starts");
    api.apply(&pod("a", "127.0.0.1"));
    let names: Vec<Arc<str>> = (0..replicas)
        .map(|number| format!("replica-{number}").into())
        .collect();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut planes = Vec::new();
    for name in &names {
        planes.push(control_plane(&api, engine.addr(), any, name).await);
    }
    let addresses: Vec<SocketAddr> = planes.iter().map(|plane| plane.bound.grpc).collect();
    let proxy = fleet::proxy(&addresses).await.expect("starts");
    let admin = format!("http://{}", proxy.bound.admin.expect("an admin port"));
    let connected = async |count: usize| metric(&admin, CONNECTED).await == count as f64;
    eventually("the pod serves", || async {
        send(chat(&proxy.url(), false, 1)).await.status() == 200
    })
    .await;
    eventually("all are connected", || connected(replicas)).await;
    let before = epoch(&admin).await;
    let load = SteadyLoad::on(&proxy.url());
    load.goes_on("all are there").await;

    api.stop().await;
    planes.clear();
    eventually("all connections are closed", || connected(0)).await;
    load.goes_on("no control plane").await;
    for (name, address) in names.iter().zip(&addresses) {
        planes.push(control_plane(&api, engine.addr(), *address, name).await);
    }
    eventually("all are connected again", || connected(replicas)).await;
    eventually("the proxy has a snapshot of a new process", || async {
        epoch(&admin).await != before
    })
    .await;
    load.goes_on("control planes that have not listed").await;
    api.start_again().await.expect("its port is free");
    for plane in &planes {
        eventually("the control plane has listed", || async {
            plane.bound.readiness.missing().is_empty()
        })
        .await;
    }
    load.goes_on("all have listed").await;
}

#[tokio::test]
async fn no_request_under_load_fails_while_the_only_control_plane_restarts_without_its_api_server()
{
    no_request_fails_while_all_restart(1).await;
}

#[tokio::test]
async fn no_request_under_load_fails_while_both_control_planes_restart_without_their_api_server() {
    no_request_fails_while_all_restart(2).await;
}
