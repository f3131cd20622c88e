//! A pool of prefill and decode engines that Kubernetes discovers, so that it changes under load.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use futures::future::join_all;
use hermes_bench::fleet::{Plane, control_plane_with, proxy};
use hermes_control_plane::discovery::client;
use hermes_testkit::apiserver::ApiServer;
use k8s_openapi::api::core::v1::Pod;
use tokio::task::JoinHandle;

use super::*;

/// Pods with engines of this process, and a router that discovers them.
pub(super) struct PairedCluster {
    api: ApiServer,
    pub(super) network: Arc<PairNetwork>,
    /// Every pod there ever was.
    pub(super) pods: Vec<EnginePod>,
    pub(super) proxy: Plane<data::DataPlane>,
    pub(super) control: Plane<control::ControlPlane>,
}

/// A pod, and the engine in it.
pub(super) struct EnginePod {
    name: String,
    pub(super) version: &'static str,
    pub(super) role: &'static str,
    pub(super) engine: EngineHandle,
    /// The port at which decode engines read what it keeps.
    pub(super) side_channel: Option<u16>,
    is_running: AtomicBool,
}

/// Clients that ask one request after the other until they are stopped.
pub(super) struct Crowd {
    is_over: Arc<AtomicBool>,
    /// Answers that each client has had.
    turns: Vec<Arc<AtomicUsize>>,
    clients: Vec<JoinHandle<CrowdRecord>>,
}

/// What a crowd got.
#[derive(Debug, Default)]
pub(super) struct CrowdRecord {
    pub(super) answered: usize,
    /// What did not become a whole answer, by its status.
    pub(super) failed: Vec<(u16, String)>,
}

impl PairedCluster {
    /// A router for a pool without engines.
    pub(super) async fn start(dialect: &str) -> Self {
        hermes_runtime::crypto::install_default_crypto();
        let api = ApiServer::start().await.expect("starts");
        let url = api.url().parse().expect("an address is a URL");
        let kube = client::connect(kube::Config::new(url)).expect("no credentials are needed");
        let yaml = format!(
            "pools:\n- name: chat\n  strategy: least-request\n  scoreDeadline: 5s\n  \
             kubernetes: {{namespace: ai, pods: {{app: vllm}}, port: http}}\n  \
             disaggregation: {{dialect: {dialect}, minUncachedTokens: 0}}\n"
        );
        let config = Config::parse(&yaml).expect("a configuration of this test");
        let options = control::Options {
            kube: Some(kube),
            ..control::Options::local(ConfigSource::Value(config))
        };
        let control = control_plane_with(options).await.expect("starts");
        let proxy = proxy(&[control.bound.grpc]).await.expect("starts");
        Self {
            api,
            network: Arc::default(),
            pods: Vec::new(),
            proxy,
            control,
        }
    }

    /// Adds a pod of this role and version, and waits until the proxy knows it.
    pub(super) async fn add(&mut self, role: &'static str, version: &'static str) {
        self.add_in("", role, version).await;
    }

    /// The same, in a zone.
    pub(super) async fn add_in(&mut self, zone: &str, role: &'static str, version: &'static str) {
        let pair = match role {
            "prefill" => Some(PairRole::Prefill),
            "decode" => Some(PairRole::Decode),
            _ => None,
        };
        let pair = pair.map(|role| PairConfig::new(role, PairProtocol::VllmNixl, &self.network));
        // Fast, and slow enough for a change to meet requests at every stage.
        let engine = EngineConfig {
            pair,
            time_scale: 0.05,
            ..EngineConfig::default()
        };
        let engine = Engine::start(engine).await.expect("starts");
        let name = format!("{role}-{}", self.pods.len());
        let mut pod = pod(&name, role, version, &engine);
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert("topology.kubernetes.io/zone".to_owned(), zone.to_owned());
        self.api.apply(&pod);
        self.pods.push(EnginePod {
            name,
            version,
            role,
            side_channel: engine.side_channel_addr().map(|address| address.port()),
            engine,
            is_running: AtomicBool::new(true),
        });
        self.settled().await;
    }

    /// Removes the oldest running pod of this role and version, as Kubernetes does: it is taken
    /// from the pool and stopped at the same time, and finishes what it has.
    pub(super) async fn remove(&self, role: &str, version: &str) {
        let mut pods = self.pods.iter();
        let pod = pods
            .find(|pod| pod.is(role, version))
            .expect("such a pod runs");
        pod.is_running.store(false, Ordering::Relaxed);
        assert!(self.api.delete::<Pod>("ai", &pod.name));
        pod.engine.stop().await;
        self.settled().await;
    }

    pub(super) fn url(&self) -> String {
        self.proxy.url()
    }

    /// Waits until the proxy has the pods that run, and no other.
    async fn settled(&self) {
        let running = self.pods.iter().filter(|pod| pod.runs());
        let running: Vec<String> = running.map(|pod| pod.engine.addr().to_string()).collect();
        eventually("the proxy has the pods that run", || async {
            let url = format!("{}/debug/snapshot", self.proxy.admin_url());
            let page = crate::client::client().get(url).send().await;
            let page = page.expect("answers").text().await.expect("text");
            let is_known = |pod: &EnginePod| page.contains(&pod.engine.addr().to_string());
            let known = self.pods.iter().filter(|pod| is_known(pod)).count();
            known == running.len() && running.iter().all(|address| page.contains(address))
        })
        .await;
    }
}

impl EnginePod {
    fn runs(&self) -> bool {
        self.is_running.load(Ordering::Relaxed)
    }

    fn is(&self, role: &str, version: &str) -> bool {
        self.runs() && self.role == role && self.version == version
    }
}

impl Crowd {
    /// Clients of this URL, each with requests of its own.
    pub(super) fn gather(url: &str, clients: usize) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let turns: Vec<Arc<AtomicUsize>> = (0..clients).map(|_| Arc::default()).collect();
        let client = |client: usize| {
            let (url, is_over) = (url.to_owned(), Arc::clone(&is_over));
            let turns = Arc::clone(&turns[client]);
            tokio::spawn(async move {
                let mut record = CrowdRecord::default();
                let mut turn = 0;
                while !is_over.load(Ordering::Relaxed) {
                    turn += 1;
                    let body = long_chat(&format!("client {client} turn {turn}"), turn % 2 == 0);
                    record.add(send(ask(&url, &body)).await).await;
                    turns.store(turn, Ordering::Relaxed);
                }
                record
            })
        };
        Self {
            clients: (0..clients).map(client).collect(),
            is_over,
            turns,
        }
    }

    /// Waits until every request that is under way now has ended, and so has one that began after
    /// it.
    pub(super) async fn goes_on(&self) {
        let turns = || self.turns.iter().map(|turns| turns.load(Ordering::Relaxed));
        let before: Vec<usize> = turns().collect();
        let enough = || turns().zip(&before).all(|(now, before)| now >= before + 2);
        eventually("every client goes on", || async { enough() }).await;
    }

    /// Stops it, and waits for the answers of what was asked.
    pub(super) async fn disperse(self) -> CrowdRecord {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = CrowdRecord::default();
        for record in join_all(self.clients).await {
            let record = record.expect("no client panics");
            all.answered += record.answered;
            all.failed.extend(record.failed);
        }
        all
    }
}

impl CrowdRecord {
    async fn add(&mut self, response: reqwest::Response) {
        let status = response.status().as_u16();
        let (pieces, is_whole) = pieces(response).await;
        if status == 200 && is_whole {
            self.answered += 1;
        } else {
            self.failed.push((status, pieces.concat()));
        }
    }
}

/// The pod of an engine, which is ready.
fn pod(name: &str, role: &str, version: &str, engine: &EngineHandle) -> Pod {
    let pod = json!({
        "metadata": {
            "name": name, "namespace": "ai",
            "labels": {"app": "vllm", "hermes.ai/role": role},
            "annotations": {"hermes.ai/engine-version": version},
        },
        "spec": {"containers": [{
            "name": "engine",
            "ports": [{"name": "http", "containerPort": engine.addr().port()}],
        }]},
        "status": {
            "phase": "Running", "podIP": "127.0.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    serde_json::from_value(pod).expect("a pod")
}
