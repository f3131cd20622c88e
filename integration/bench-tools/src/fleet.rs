//! A whole Hermes on loopback: simulated engines, control planes and proxies, every port chosen by
//! the system.
//!
//! The planes are the real ones, in this process, and talk gRPC over real sockets. A plane or proxy
//! can be stopped as SIGTERM would stop it, or dropped as if its process had died. Dropping the
//! fleet ends everything.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use hermes_control_plane::{
    app::{self as control, ConfigSource},
    config::{Config, ConfigErrors},
};
use hermes_data_plane::app as data;
use hermes_runtime::shutdown::{Shutdown, Trigger};
use tokio::{task::JoinHandle, time::timeout};

use hermes_engine_sim::kv_manager::KvManagerServer;
use hermes_engine_sim::{Engine, EngineConfig, EngineHandle, PairRole};

/// How long a fleet may take to become ready.
const READY: Duration = Duration::from_secs(20);

/// What to start.
#[derive(Clone, Debug)]
pub struct Scene {
    /// One engine each. Those with a part in pairs are prefill and decode endpoints of the pool
    /// `chat`, in the dialect `vllm-nixl`.
    pub engines: Vec<EngineConfig>,
    /// Endpoints of the pool `chat` besides them, by URL.
    pub endpoints: Vec<String>,
    /// Control-plane replicas.
    pub control_planes: usize,
    /// Data planes.
    pub proxies: usize,
    /// The certificates of all planes, which then talk by TLS.
    pub tls: Option<PathBuf>,
    /// The door of each proxy for gateways, if they have one.
    pub picker: Option<data::PickerOptions>,
    /// A KV manager that knows what the engines hold.
    pub kv_manager: bool,
    /// Further lines of the pool `chat`, as YAML with an indent of two: `  strategy: round-robin`.
    pub pool: String,
    /// Further lines at the top level, as YAML.
    pub top: String,
    /// Where to write the configuration. Control planes follow this file; without one they keep
    /// what they start with.
    pub file: Option<PathBuf>,
}

/// The endpoints of the pool `chat`, by URL.
#[derive(Debug, Default)]
pub(crate) struct PoolUrls {
    endpoints: Vec<String>,
    prefill: Vec<String>,
    decode: Vec<String>,
    both: Vec<String>,
}

/// What runs.
#[derive(Debug)]
pub struct Fleet {
    /// In the scene's order.
    pub engines: Vec<Arc<EngineHandle>>,
    /// If the scene has one.
    pub kv_manager: Option<KvManagerServer>,
    /// In no particular order; each has all inputs.
    pub control_planes: Vec<Plane<control::ControlPlane>>,
    /// Each follows every control plane.
    pub proxies: Vec<Plane<data::DataPlane>>,
    /// The configuration of its control planes.
    pub config: ConfigSource,
}

/// One plane that runs.
#[derive(Debug)]
pub struct Plane<B> {
    /// Its addresses.
    pub bound: B,
    trigger: Trigger,
    shutdown: JoinHandle<hermes_runtime::shutdown::Outcome>,
}

/// Why a fleet does not start.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// An engine or the KV manager cannot listen, or is configured wrongly.
    #[error("an engine or the KV manager does not start: {0}")]
    Engine(#[from] std::io::Error),
    /// The scene's YAML is wrong.
    #[error("the scene's configuration is wrong: {0}")]
    Config(#[from] ConfigErrors),
    /// The scene's file cannot be written.
    #[error("the configuration cannot be written: {0}")]
    File(std::io::Error),
    /// A control plane does not start.
    #[error(transparent)]
    Control(#[from] control::StartError),
    /// A data plane does not start.
    #[error(transparent)]
    Data(#[from] data::DataPlaneStartError),
    /// Everything started and something never became ready.
    #[error("not ready within {READY:?}: {0}")]
    NotReady(String),
}

impl Default for Scene {
    /// One of each, and engines that answer at once.
    fn default() -> Self {
        Self {
            engines: vec![instant()],
            endpoints: Vec::new(),
            control_planes: 1,
            proxies: 1,
            tls: None,
            picker: None,
            kv_manager: false,
            pool: String::new(),
            top: String::new(),
            file: None,
        }
    }
}

/// An engine that answers as fast as it can.
#[must_use]
pub fn instant() -> EngineConfig {
    EngineConfig {
        time_scale: 0.0,
        ..EngineConfig::default()
    }
}

impl Scene {
    /// `engines` equal engines that answer at once, under this strategy.
    ///
    /// Proxies wait long for scores: a machine that runs many tests is late more often than any
    /// control plane.
    #[must_use]
    pub fn of(engines: usize, strategy: &str) -> Self {
        let pool = format!("  strategy: {strategy}\n  scoreDeadline: 5s\n");
        Self {
            engines: vec![instant(); engines],
            pool,
            ..Self::default()
        }
    }

    /// Starts it and waits until every proxy is ready.
    ///
    /// # Errors
    ///
    /// When something does not start.
    pub async fn start(self) -> Result<Fleet, FleetError> {
        let Self {
            engines: configs,
            endpoints,
            control_planes,
            proxies,
            tls,
            picker,
            kv_manager,
            mut pool,
            top,
            file,
        } = self;
        let mut engines = Vec::new();
        let mut urls = PoolUrls::default();
        for config in configs {
            let role = config.pair.as_ref().map(|pair| pair.role);
            let engine = Engine::start(config).await?;
            urls.of(role).push(engine.url());
            engines.push(Arc::new(engine));
        }
        urls.endpoints.extend(endpoints);
        let kv_manager = if kv_manager {
            Some(manager_of(&engines).await?)
        } else {
            None
        };
        if let Some(manager) = &kv_manager {
            pool.push_str(&format!(
                "  kvManager: {{url: '{}', lookupTimeout: 2s}}\n",
                manager.url()
            ));
        }
        let config = source(file, &urls.yaml(&top, &pool))?;
        let mut fleet = Fleet {
            engines,
            kv_manager,
            control_planes: Vec::new(),
            proxies: Vec::new(),
            config,
        };
        for _ in 0..control_planes {
            let options = control::Options {
                tls: tls.clone(),
                ..control::Options::local(fleet.config.clone())
            };
            fleet
                .control_planes
                .push(control_plane_with(options).await?);
        }
        let targets: Vec<String> = fleet
            .control_planes
            .iter()
            .map(|plane| plane.bound.grpc.to_string())
            .collect();
        for _ in 0..proxies {
            let options = data::DataPlaneOptions {
                tls: tls.clone(),
                picker: picker.clone(),
                ..data::DataPlaneOptions::local(targets.clone())
            };
            fleet.proxies.push(proxy_with(options).await?);
        }
        fleet.ready().await?;
        Ok(fleet)
    }
}

// === PoolUrls ===

impl PoolUrls {
    /// The list for engines of this role.
    pub(crate) fn of(&mut self, role: Option<PairRole>) -> &mut Vec<String> {
        match role {
            None => &mut self.endpoints,
            Some(PairRole::Prefill) => &mut self.prefill,
            Some(PairRole::Decode) => &mut self.decode,
            Some(PairRole::Both) => &mut self.both,
        }
    }

    /// The configuration with these lines at the top level and of the pool.
    pub(crate) fn yaml(&self, top: &str, pool: &str) -> String {
        let Self {
            endpoints,
            prefill,
            decode,
            both,
        } = self;
        let roles = [("prefill", prefill), ("decode", decode), ("both", both)];
        let keys = roles.iter().filter(|(_, urls)| !urls.is_empty());
        let keys = keys.map(|(role, urls)| format!(", {role}: [{}]", urls.join(", ")));
        let keys: String = keys.collect();
        let mut yaml = format!("{top}pools:\n- name: chat\n");
        if !endpoints.is_empty() || keys.is_empty() {
            yaml.push_str(&format!("  endpoints: [{}]\n", endpoints.join(", ")));
        }
        if !keys.is_empty() {
            yaml.push_str(&format!("  disaggregation: {{dialect: vllm-nixl{keys}}}\n"));
        }
        yaml.push_str(pool);
        yaml
    }
}

/// This configuration, in the file if there is to be one.
fn source(file: Option<PathBuf>, yaml: &str) -> Result<ConfigSource, FleetError> {
    let config = Config::parse(yaml)?;
    let Some(file) = file else {
        return Ok(ConfigSource::Value(config));
    };
    std::fs::write(&file, yaml).map_err(FleetError::File)?;
    Ok(ConfigSource::File(file))
}

/// A KV manager that answers what these engines hold at that moment.
async fn manager_of(engines: &[Arc<EngineHandle>]) -> std::io::Result<KvManagerServer> {
    let engines = engines.to_vec();
    KvManagerServer::start(move |question| {
        let share = |engine: &EngineHandle| {
            question.share(|model, prompt| engine.held_prefix_tokens(model, prompt))
        };
        engines
            .iter()
            .map(|engine| (engine.addr().to_string(), share(engine)))
            .collect()
    })
    .await
}

/// Starts one control plane on free ports.
///
/// # Errors
///
/// When it does not start.
pub async fn control_plane(
    config: ConfigSource,
) -> Result<Plane<control::ControlPlane>, control::StartError> {
    control_plane_at(config, SocketAddr::from(([127, 0, 0, 1], 0))).await
}

/// Starts one control plane that listens for proxies at `listen`.
///
/// # Errors
///
/// When it does not start.
pub async fn control_plane_at(
    config: ConfigSource,
    listen: SocketAddr,
) -> Result<Plane<control::ControlPlane>, control::StartError> {
    control_plane_with(control::Options {
        listen,
        ..control::Options::local(config)
    })
    .await
}

/// Starts one control plane.
///
/// # Errors
///
/// When it does not start.
pub async fn control_plane_with(
    options: control::Options,
) -> Result<Plane<control::ControlPlane>, control::StartError> {
    let (shutdown, trigger) = Shutdown::manual();
    let bound = control::start(options, shutdown.drain()).await?;
    Ok(Plane {
        bound,
        trigger,
        shutdown: tokio::spawn(shutdown.run(Duration::from_secs(30))),
    })
}

/// Starts one proxy that follows these control planes and serves on the caller's runtime.
///
/// # Errors
///
/// When it does not start.
pub async fn proxy(
    control_planes: &[SocketAddr],
) -> Result<Plane<data::DataPlane>, data::DataPlaneStartError> {
    let control_planes = control_planes.iter().map(ToString::to_string).collect();
    proxy_with(data::DataPlaneOptions::local(control_planes)).await
}

/// Starts one proxy.
///
/// # Errors
///
/// When it does not start.
pub async fn proxy_with(
    options: data::DataPlaneOptions,
) -> Result<Plane<data::DataPlane>, data::DataPlaneStartError> {
    let (shutdown, trigger) = Shutdown::manual();
    let bound = data::start(options, shutdown.drain()).await?;
    Ok(Plane {
        bound,
        trigger,
        shutdown: tokio::spawn(shutdown.run(Duration::from_secs(30))),
    })
}

// === Fleet ===

impl Fleet {
    /// Base URL of the first proxy.
    ///
    /// # Panics
    ///
    /// When the scene had no proxy.
    #[must_use]
    pub fn url(&self) -> String {
        self.proxies.first().expect("the scene has a proxy").url()
    }

    async fn ready(&self) -> Result<(), FleetError> {
        for plane in &self.proxies {
            let readiness = &plane.bound.readiness;
            if timeout(READY, readiness.ready()).await.is_err() {
                return Err(FleetError::NotReady(format!("{:?}", readiness.missing())));
            }
        }
        Ok(())
    }
}

// === Plane ===

impl<B> Plane<B> {
    /// Asks for a drain as SIGTERM does; asked twice, forces.
    pub fn terminate(&self) {
        self.trigger.fire();
    }

    /// Drains and waits for the end.
    pub async fn stop(self) {
        let Self {
            bound,
            trigger,
            shutdown,
        } = self;
        trigger.fire();
        // Its panic, if any, was reported where it happened.
        let _ended = shutdown.await;
        drop(bound);
    }
}

impl Plane<data::DataPlane> {
    /// Where clients connect.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.bound.listen)
    }

    /// Where operators connect.
    #[must_use]
    pub fn admin_url(&self) -> String {
        self.bound
            .admin
            .map(|address| format!("http://{address}"))
            .unwrap_or_default()
    }
}
