//! The control plane as a whole: takes its ports, starts its tasks, and ends with the drain.
//!
//! ```text
//!   start: configuration ─▶ ports ─▶ tasks: config · pipeline · clock · turns · grpc · admin      (all addresses known)
//!   drain: streams end ─▶ connections close ─▶ join
//! ```
//!
//! A configuration that is wrong, and a port that is taken, fail the start. Afterwards nothing does: what goes wrong
//! is logged, counted and tried again.

mod config_feed;
mod options;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hermes_core::snapshot::{Epoch, Snapshot};
use hermes_runtime::{
    admin::{Admin, BoundAdmin},
    crypto::install_default_crypto,
    metrics::register_process,
    readiness::{Liveness, Readiness},
    shutdown::Drain,
    tasks::Tasks,
    tls::TlsFolder,
};
use prometheus_client::registry::Registry;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time::{self, MissedTickBehavior},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use self::config_feed::Feed;
pub use self::options::{ConfigSource, Options, StartError};
use crate::{
    admin::{Pages, WorldCensus},
    cache_sources::{kv_events::KvEventsMetrics, kv_manager::KvMetrics, tokenizer::TokenMetrics},
    engines::{self, Collector, CollectorMetrics},
    events::Announcer,
    metrics::Metrics,
    pipeline::{Gates, Lookouts, Pipeline, QUEUE, Reins},
    pools::{Brains, Guides},
    serve::{self, Desk, Entry, Proxies},
};

/// How often time passes for bookings, figures and endpoints that warm up.
const TICK: Duration = Duration::from_millis(100);

/// The control plane.
#[derive(Debug)]
pub struct ControlPlane;

/// A control plane that runs. Dropping it cuts everything off, as if the process had died.
#[derive(Debug)]
pub struct Bound {
    /// Where proxies connect.
    pub grpc: SocketAddr,
    /// Where probes and metrics are, if they were asked for.
    pub admin: Option<SocketAddr>,
    /// The replica's name.
    pub replica: Arc<str>,
    /// Whether it may be asked.
    pub readiness: Readiness,
    tasks: Tasks,
    subscribers: TaskTracker,
    _cut_off: DropGuard,
}

/// Everything that is made before anything runs.
struct Parts {
    epoch: Epoch,
    replica: Arc<str>,
    readiness: Readiness,
    registry: Registry,
    metrics: Metrics,
    brains: Arc<Brains>,
}

// === ControlPlane ===

impl ControlPlane {
    /// Starts a control plane that ends with `drain`.
    ///
    /// # Errors
    /// When the configuration is wrong or unreadable, or a port is taken.
    pub async fn start(options: Options, drain: Drain) -> Result<Bound, StartError> {
        install_default_crypto();
        let Options {
            config,
            listen,
            tls,
            admin,
            replica,
            kube,
            pod,
        } = options;
        let announcer = pod.map(|pod| Announcer::new(pod, kube.clone()));
        let (feed, announcer) = open(config, announcer).await?;
        let listener = bind(listen).await?;
        let grpc = listener.local_addr().map_err(|source| StartError::Listen {
            address: listen,
            source,
        })?;
        let mut parts = Parts::new(replica);

        let liveness = Liveness::default();
        let tasks = Tasks::new(liveness.clone(), drain.clone());
        let closing = CancellationToken::new();
        let subscribers = TaskTracker::new();
        let entry = Entry {
            listener,
            tls: TlsFolder::follow(tls, &mut parts.registry, &tasks).await?,
        };
        let mutual_tls = entry.tls.is_some();
        if let (Some(announcer), Some(status)) = (announcer, feed.status()) {
            tasks.spawn(
                "announcer",
                until_drain(drain.clone(), announcer.follow(status)),
            );
        }
        let snapshots = parts.run_pipeline(feed, kube, &tasks, &drain)?;
        let desk = parts.desk(snapshots.clone(), closing.clone(), subscribers.clone());
        let proxies = desk.proxies.clone();
        let pages = Pages {
            snapshots,
            brains: Arc::clone(&parts.brains),
            replica: Arc::clone(&parts.replica),
        };
        let Parts {
            replica,
            readiness,
            registry,
            brains,
            ..
        } = parts;
        let admin = match admin {
            Some(address) => Some(
                pages
                    .add_to(Admin::new(readiness.clone(), registry).with_liveness(liveness))
                    .bind(address, "--admin")
                    .await?,
            ),
            None => None,
        };
        let admin_address = admin.as_ref().map(BoundAdmin::local_addr);

        let turns = Arc::clone(&brains);
        tasks.spawn(
            "turns",
            until_drain(drain.clone(), async move { turns.give_turns().await }),
        );
        tasks.spawn("clock", pass_time(brains, proxies, drain.clone()));
        tasks.spawn("grpc", serve_until_closed(entry, desk, drain.clone()));
        if let Some(admin) = admin {
            tasks.spawn("admin", admin.serve(drain.forced()));
        }
        let cut_off = closing.clone().drop_guard();
        tasks.spawn("drain", async move {
            drain.draining().await;
            closing.cancel();
        });
        tracing::info!(%grpc, mutual_tls, admin = ?admin_address, replica = &*replica, "control plane started");
        Ok(Bound {
            grpc,
            admin: admin_address,
            replica,
            readiness,
            tasks,
            subscribers,
            _cut_off: cut_off,
        })
    }
}

/// Reads the configuration for the first time. A refusal is announced by whoever would have followed it.
async fn open(
    config: ConfigSource,
    announcer: Option<Announcer>,
) -> Result<(Feed, Option<Announcer>), StartError> {
    match Feed::open(config).await {
        Ok(feed) => Ok((feed, announcer)),
        Err(error) => {
            if let Some(announcer) = announcer {
                announcer.tell_refusal(&error).await;
            }
            Err(error.into())
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen { address, source })
}

// === Bound ===

impl Bound {
    /// Waits at most `limit` for everything to end, which it does once the drain has begun, and cuts off the rest.
    pub async fn join(self, limit: Duration) {
        let Self {
            tasks, subscribers, ..
        } = self;
        subscribers.close();
        let _in_time = time::timeout(limit, subscribers.wait()).await;
        tasks.shutdown(limit).await;
    }
}

// === Parts ===

impl Parts {
    fn new(replica: Option<Arc<str>>) -> Self {
        let epoch = Epoch(options::at_random());
        let replica = replica.unwrap_or_else(|| format!("replica-{:016x}", epoch.0).into());
        let mut registry = Registry::default();
        register_process(&mut registry, "control-plane", env!("CARGO_PKG_VERSION"));
        let metrics = Metrics::register(&mut registry);
        let brains = Arc::new(Brains::new(epoch.0, metrics.clone()));
        Self {
            epoch,
            replica,
            readiness: Readiness::default(),
            registry,
            metrics,
            brains,
        }
    }

    /// Starts the sources and the owner of the cluster.
    fn run_pipeline(
        &mut self,
        feed: Feed,
        kube: Option<kube::Client>,
        tasks: &Tasks,
        drain: &Drain,
    ) -> Result<watch::Receiver<Arc<Snapshot>>, StartError> {
        let (updates, told) = mpsc::channel(QUEUE);
        let (observations, seen) = mpsc::channel(QUEUE);
        let settings = engines::Settings {
            seed: self.epoch.0,
            ..engines::Settings::default()
        };
        let lookouts = Lookouts::new(updates.clone(), kube);
        self.registry.register_collector(Box::new(WorldCensus {
            brains: Arc::clone(&self.brains),
            board: lookouts.board(),
        }));
        let reins = Reins {
            collector: Collector::new(
                settings,
                CollectorMetrics::register(&mut self.registry),
                observations,
            )?,
            lookouts,
            guides: Guides::new(
                KvMetrics::register(&mut self.registry),
                KvEventsMetrics::register(&mut self.registry),
                TokenMetrics::register(&mut self.registry),
            ),
            gates: Gates::new(&self.readiness),
        };
        let (pipeline, snapshots) = Pipeline::new(
            self.epoch,
            Arc::clone(&self.brains),
            reins,
            self.metrics.clone(),
        );
        tasks.spawn(
            "config",
            until_drain(
                drain.clone(),
                feed.run(
                    updates,
                    self.metrics.clone(),
                    self.readiness.note("configuration"),
                ),
            ),
        );
        tasks.spawn(
            "pipeline",
            until_drain(drain.clone(), pipeline.run(told, seen)),
        );
        Ok(snapshots)
    }

    fn desk(
        &self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        closing: CancellationToken,
        subscribers: TaskTracker,
    ) -> Desk {
        Desk {
            brains: Arc::clone(&self.brains),
            snapshots,
            proxies: Proxies::default(),
            replica: Arc::clone(&self.replica),
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

/// Lets time pass for the brains, and forgets proxies that are gone for good.
async fn pass_time(brains: Arc<Brains>, proxies: Proxies, drain: Drain) {
    let mut ticks = time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    until_drain(drain, async {
        loop {
            ticks.tick().await;
            brains.tick();
            for proxy in proxies.departed() {
                tracing::info!(proxy = proxy.0, "proxy forgotten");
                brains.forget_proxy(proxy);
            }
        }
    })
    .await;
}

async fn serve_until_closed(entry: Entry, desk: Desk, drain: Drain) {
    // A drain waits for the connections.
    let _open = drain.track();
    if let Err(error) = serve::serve(entry, desk).await {
        tracing::error!(%error, "the gRPC listener failed");
    }
}
