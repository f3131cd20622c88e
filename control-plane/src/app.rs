//! The control plane as a whole: takes its ports, starts its tasks, and ends with the drain.
//!
//! ```text
//!   start: configuration ─▶ ports ─▶ tasks: config · pipeline · clock · queue ticker · grpc · admin   (all addresses known)
//!   drain: streams end ─▶ connections close ─▶ join
//! ```
//!
//! An invalid configuration, or a port in use, fails the start. Later errors are logged, counted
//! and retried.

mod config_feed;
mod gateways;
mod options;

use std::{future::pending, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::try_join_all;
use hermes_core::snapshot::{Epoch, Snapshot};
use hermes_runtime::{
    admin::{Admin, BoundAdmin},
    crypto::install_default_crypto,
    metrics::register_process,
    readiness::{Liveness, Readiness},
    shutdown::Drain,
    tasks::{RestartedTask, Tasks},
    tls::TlsFolder,
};
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    sync::{OnceCell, mpsc, watch},
    time::{self, MissedTickBehavior},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::config_feed::ConfigFeed;
pub use self::options::{ConfigSource, Options, StartError};
use crate::{
    admin::{DebugPages, StateCollector},
    cache_sources::{
        kv_events::{KvEventsListener, KvEventsMetrics},
        kv_manager::KvManagerMetrics,
        tokenizer::TokenizerMetrics,
    },
    engines::{self, EngineProbes, ScrapeMetrics},
    events::EventRecorder,
    metrics::ControlPlaneMetrics,
    objects::{GatewayLinks, MergedConfig, ObjectFeed, ObjectMetrics, ObjectsPage},
    pipeline::{DiscoverySupervisor, Pipeline, PipelineHandles, QUEUE, ReadinessGates},
    pools::{PoolDirectory, PoolResourceRegistry, queue_ticker},
    serve::{self, CertificateSource, ConnectedProxies, GrpcListener, GrpcState},
    snapshot_encoder::SnapshotEncoder,
};

/// How often bookings expire, samples grow stale and endpoints leave slow start.
const TICK: Duration = Duration::from_millis(100);

/// A control plane that runs. Dropping it cuts everything off, as if the process had died.
#[derive(Debug)]
pub struct ControlPlane {
    /// Where proxies connect.
    pub grpc: SocketAddr,
    /// Where publishers of KV events connect that dial.
    pub kv_events: Vec<SocketAddr>,
    /// Where probes and metrics are, if they were asked for.
    pub admin: Option<SocketAddr>,
    /// The replica's name.
    pub replica: Arc<str>,
    /// Whether proxies should use it.
    pub readiness: Readiness,
    tasks: Tasks,
    subscribers: TaskTracker,
    _cut_off: DropGuard,
}

/// Everything that is made before anything runs.
struct StartupParts {
    epoch: Epoch,
    replica: Arc<str>,
    readiness: Readiness,
    registry: Registry,
    metrics: ControlPlaneMetrics,
    kv_events_metrics: KvEventsMetrics,
    pools: Arc<PoolDirectory>,
}

/// The newest snapshot.
type NewestSnapshot = watch::Receiver<Arc<Snapshot>>;

/// What became of each object at last.
type NewestObjects = watch::Receiver<Arc<ObjectsPage>>;

/// Starts a control plane that ends with `drain`.
///
/// # Errors
/// When the configuration is wrong or unreadable, or a port is taken.
pub async fn start(options: Options, drain: Drain) -> Result<ControlPlane, StartError> {
    install_default_crypto();
    let Options {
        config,
        listen,
        kv_events,
        kv_events_replicas,
        tls,
        certificates_without_tls,
        admin,
        replica,
        kube,
        pod,
    } = options;
    let recorder = pod.map(|pod| EventRecorder::new(pod, kube.clone()));
    let (feed, recorder) = open(config, recorder).await?;
    let (listener, grpc) = bind(listen, "--listen").await?;
    let (publisher_listeners, kv_events) = bind_all(kv_events, "--kv-events-listen").await?;
    let mut parts = StartupParts::new(replica);

    let liveness = Liveness::default();
    let tasks = Tasks::new(liveness.clone(), drain.clone());
    let closing = CancellationToken::new();
    let subscribers = TaskTracker::new();
    let listener = GrpcListener {
        listener,
        tls: TlsFolder::follow(tls, &mut parts.registry, &tasks).await?,
    };
    let mutual_tls = listener.tls.is_some();
    record_status(recorder, &feed, &tasks, &drain);
    let may_send = mutual_tls || certificates_without_tls;
    let (gateways, certificates) =
        gateways::run(kube.clone(), may_send, &mut parts.registry, &tasks, &drain);
    let (snapshots, objects) = parts.run_pipeline(feed, gateways, kube, &tasks, &drain)?;
    let publishers = (publisher_listeners, kv_events_replicas);
    parts.accept_publishers(publishers, &tasks, &drain);
    let streams = (closing.clone(), subscribers.clone());
    let state = parts.state(snapshots.clone(), certificates, streams);
    let pages = DebugPages {
        snapshots,
        pools: Arc::clone(&parts.pools),
        objects,
        replica: Arc::clone(&parts.replica),
    };
    let StartupParts {
        replica,
        readiness,
        registry,
        pools,
        ..
    } = parts;
    let admin = match admin {
        Some(address) => {
            let admin = Admin::new(readiness.clone(), registry).with_liveness(liveness);
            Some(pages.add_to(admin).bind(address, "--admin").await?)
        }
        None => None,
    };
    let admin_address = admin.as_ref().map(BoundAdmin::local_addr);
    spawn_servers(&tasks, &drain, pools, (listener, state), admin);
    let cut_off = closing.clone().drop_guard();
    tasks.spawn("drain", close_when_draining(drain, closing));
    tracing::info!(%grpc, mutual_tls, ?kv_events, admin = ?admin_address, replica = &*replica, "control plane started");
    Ok(ControlPlane {
        grpc,
        kv_events,
        admin: admin_address,
        replica,
        readiness,
        tasks,
        subscribers,
        _cut_off: cut_off,
    })
}

/// Records what becomes of the configuration as Kubernetes Events, if both are there.
fn record_status(recorder: Option<EventRecorder>, feed: &ConfigFeed, tasks: &Tasks, drain: &Drain) {
    if let (Some(recorder), Some(status)) = (recorder, feed.status()) {
        tasks.spawn(
            "recorder",
            until_drain(drain.clone(), recorder.follow(status)),
        );
    }
}

/// Ends the streams to proxies when the drain begins.
async fn close_when_draining(drain: Drain, closing: CancellationToken) {
    drain.draining().await;
    closing.cancel();
}

/// Spawns what answers proxies, operators and the clock.
fn spawn_servers(
    tasks: &Tasks,
    drain: &Drain,
    pools: Arc<PoolDirectory>,
    (listener, state): (GrpcListener, GrpcState),
    admin: Option<BoundAdmin>,
) {
    let queues = Arc::clone(&pools);
    tasks.spawn(
        "queue ticker",
        until_drain(
            drain.clone(),
            async move { queue_ticker::run(&queues).await },
        ),
    );
    let proxies = state.proxies.clone();
    tasks.spawn("clock", pass_time(pools, proxies, drain.clone()));
    tasks.spawn("grpc", serve_until_closed(listener, state, drain.clone()));
    if let Some(admin) = admin {
        tasks.spawn("admin", admin.serve(drain.forced()));
    }
}

/// Loads the initial configuration. If it is invalid, a Kubernetes Event is recorded before the
/// error is returned.
async fn open(
    config: ConfigSource,
    recorder: Option<EventRecorder>,
) -> Result<(ConfigFeed, Option<EventRecorder>), StartError> {
    match ConfigFeed::open(config).await {
        Ok(feed) => Ok((feed, recorder)),
        Err(error) => {
            if let Some(recorder) = recorder {
                recorder.record_rejection(&error).await;
            }
            Err(error.into())
        }
    }
}

/// Takes a port that this flag configures, and answers which.
async fn bind(
    address: SocketAddr,
    flag: &'static str,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen {
        address,
        flag,
        source,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Takes several.
async fn bind_all(
    addresses: Vec<SocketAddr>,
    flag: &'static str,
) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), StartError> {
    let bound = addresses.into_iter().map(|address| bind(address, flag));
    Ok(try_join_all(bound).await?.into_iter().unzip())
}

// === ControlPlane ===

impl ControlPlane {
    /// Waits at most `limit` for everything to end, which it does once the drain has begun, and
    /// cuts off the rest.
    pub async fn join(self, limit: Duration) {
        let Self {
            tasks, subscribers, ..
        } = self;
        subscribers.close();
        let _in_time = time::timeout(limit, subscribers.wait()).await;
        tasks.shutdown(limit).await;
    }
}

// === StartupParts ===

impl StartupParts {
    fn new(replica: Option<Arc<str>>) -> Self {
        let epoch = Epoch(options::at_random());
        let replica = replica.unwrap_or_else(|| format!("replica-{:016x}", epoch.0).into());
        let mut registry = Registry::default();
        register_process(&mut registry, "control-plane", env!("CARGO_PKG_VERSION"));
        let metrics = ControlPlaneMetrics::register(&mut registry);
        let kv_events_metrics = KvEventsMetrics::register(&mut registry);
        let pools = Arc::new(PoolDirectory::new(epoch.0, metrics.clone()));
        Self {
            epoch,
            replica,
            readiness: Readiness::default(),
            registry,
            metrics,
            kv_events_metrics,
            pools,
        }
    }

    /// Lets publishers of KV events in that dial, and shares what they say with other replicas.
    fn accept_publishers(
        &self,
        (listeners, replicas): (Vec<TcpListener>, Vec<String>),
        tasks: &Tasks,
        drain: &Drain,
    ) {
        if listeners.is_empty() {
            return;
        }
        let pools = Arc::clone(&self.pools);
        let followed = Box::new(move || pools.kv_events());
        let metrics = self.kv_events_metrics.clone();
        let listener =
            KvEventsListener::new(listeners, followed, metrics, self.epoch.0).shared_with(replicas);
        tasks.spawn(
            "KV event listener",
            until_drain(drain.clone(), listener.run()),
        );
    }

    /// Starts the sources and the owner of the cluster.
    fn run_pipeline(
        &mut self,
        feed: ConfigFeed,
        gateways: GatewayLinks,
        kube: Option<kube::Client>,
        tasks: &Tasks,
        drain: &Drain,
    ) -> Result<(NewestSnapshot, NewestObjects), StartError> {
        let (updates, queued_updates) = mpsc::channel(QUEUE);
        let (results, queued_results) = mpsc::channel(QUEUE);
        let settings = engines::ProbeSettings {
            seed: self.epoch.0,
            ..engines::ProbeSettings::default()
        };
        let discovery = DiscoverySupervisor::new(updates.clone(), kube.clone());
        self.registry.register_collector(Box::new(StateCollector {
            pools: Arc::clone(&self.pools),
            discovery: discovery.health(),
        }));
        let handles = PipelineHandles {
            probes: EngineProbes::new(
                settings,
                ScrapeMetrics::register(&mut self.registry),
                results,
            )?,
            discovery,
            resources: PoolResourceRegistry::new(
                KvManagerMetrics::register(&mut self.registry),
                self.kv_events_metrics.clone(),
                TokenizerMetrics::register(&mut self.registry),
            ),
            gates: ReadinessGates::new(&self.readiness),
        };
        let (pipeline, snapshots) = Pipeline::new(
            self.epoch,
            Arc::clone(&self.pools),
            handles,
            self.metrics.clone(),
        );
        let (newest, objects) = self.run_objects(&feed, gateways, kube, tasks, drain);
        tasks.spawn(
            "config",
            until_drain(
                drain.clone(),
                feed.run(
                    newest,
                    updates,
                    self.metrics.clone(),
                    self.readiness.note("configuration"),
                ),
            ),
        );
        tasks.spawn(
            "pipeline",
            until_drain(drain.clone(), pipeline.run(queued_updates, queued_results)),
        );
        Ok((snapshots, objects))
    }

    /// Starts the watches of objects that are configuration. Returns the configuration with them,
    /// and what became of each.
    fn run_objects(
        &mut self,
        feed: &ConfigFeed,
        gateways: GatewayLinks,
        kube: Option<kube::Client>,
        tasks: &Tasks,
        drain: &Drain,
    ) -> (watch::Receiver<MergedConfig>, NewestObjects) {
        let (merged, newest) = watch::channel(None);
        let (page, rows) = watch::channel(Arc::default());
        let objects = ObjectFeed {
            file: feed.file(),
            merged: Arc::new(merged),
            client: Arc::new(OnceCell::new_with(kube)),
            page: Arc::new(page),
            note: Arc::new(self.readiness.note("inference pools")),
            metrics: ObjectMetrics::register(&mut self.registry),
            gateways,
        };
        tasks.spawn(
            "objects",
            until_drain(drain.clone(), async move {
                let _following = RestartedTask::spawn("objects", move || objects.clone().run());
                pending::<()>().await;
            }),
        );
        (newest, rows)
    }

    fn state(
        &self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        certificates: CertificateSource,
        (closing, subscribers): (CancellationToken, TaskTracker),
    ) -> GrpcState {
        GrpcState {
            pools: Arc::clone(&self.pools),
            snapshots,
            proxies: ConnectedProxies::default(),
            encoder: Arc::new(SnapshotEncoder::new(Arc::clone(&self.replica))),
            certificates,
            metrics: self.metrics.clone(),
            closing,
            subscribers,
        }
    }
}

async fn until_drain(drain: Drain, task: impl Future<Output = ()>) {
    tokio::select! {
        () = drain.draining() => {}
        () = task => {}
    }
}

/// Ticks the pools, and removes proxies that did not reconnect.
async fn pass_time(pools: Arc<PoolDirectory>, proxies: ConnectedProxies, drain: Drain) {
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    until_drain(drain, async {
        loop {
            ticks.tick().await;
            pools.tick();
            for proxy in proxies.departed() {
                tracing::info!(proxy = proxy.0, "proxy forgotten");
                pools.forget_proxy(proxy);
            }
        }
    })
    .await;
}

async fn serve_until_closed(listener: GrpcListener, state: GrpcState, drain: Drain) {
    // A drain waits for the connections.
    let _open = drain.track();
    if let Err(error) = serve::serve(listener, state).await {
        tracing::error!(%error, "the gRPC listener failed");
    }
}
