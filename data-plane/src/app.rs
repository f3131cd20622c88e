//! Wiring: a data plane from its options, every port bound before anything is served.

use std::{io, net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc};

use hermes_runtime::{
    admin::{Admin, BindError},
    memory_limit::memory_limit,
    metrics::register_process,
    readiness::{Liveness, Readiness},
    shutdown::Drain,
    tasks::Tasks,
    tls::{CertificateFolders, ServerCertificate, TlsError, TlsFolder},
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

pub use crate::options::{DataPlaneOptions, PickerOptions, cores};
use crate::{
    admin,
    clock::uptime,
    link::{identity::ProxyIdentity, report::Reporter},
    picker::{door::PickerDoor, service::ExtProcService},
    place::Placer,
    proxy::Proxy,
    request::admission::AdmissionLimit,
    server::{
        picker_port::PickerPort,
        ports::PortOpener,
        workers::{Listeners, Worker},
    },
    sync::{self, ControlPlaneTarget, ControlPlaneTargets, Dialer, RoutingState, SnapshotStore},
    telemetry::{access_log::AccessLog, metrics::ProxyMetrics},
    worker::WorkerRuntime,
};

/// A data plane that serves.
#[derive(Debug)]
pub struct DataPlane {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where operators and probes connect.
    pub admin: Option<SocketAddr>,
    /// Where gateways connect, if they may.
    pub picker: Option<SocketAddr>,
    /// Whether it has a snapshot and does not drain.
    pub readiness: Readiness,
    /// The tasks that serve; when it is dropped they end.
    pub tasks: Tasks,
}

/// Why a data plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneStartError {
    /// The clients' port is in use or not permitted.
    #[error("cannot listen on {address} (--listen): {source}")]
    Listen {
        /// The port.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The admin port is in use or not permitted.
    #[error(transparent)]
    Admin(#[from] BindError),
    /// The folder of certificates cannot be used.
    #[error("{0} (--tls)")]
    Tls(#[from] TlsError),
    /// The gateways' port is in use or not permitted.
    #[error("cannot listen on {address} (--picker-listen): {source}")]
    PickerListen {
        /// The port.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The folder of the certificate for gateways cannot be used.
    #[error("{0} (--picker-tls)")]
    PickerTls(TlsError),
    /// The name of a control plane is not an address.
    #[error(
        "a control plane is host:port, with a DNS name or an IP address, not {0:?} (--control-plane)"
    )]
    Name(String),
    /// No control plane is named.
    #[error("no control plane is named; --control-plane must be http://host:port")]
    NoControlPlane,
}

/// Starts a data plane; it serves until `drain` is over.
///
/// # Errors
///
/// When a port cannot be taken, or no control plane is named.
pub async fn start(
    options: DataPlaneOptions,
    drain: Drain,
) -> Result<DataPlane, DataPlaneStartError> {
    let DataPlaneOptions {
        control_planes,
        tls,
        listener_certificates,
        listen: address,
        admin: admin_address,
        name,
        workers,
        picker,
    } = options;
    let targets = targets_of(control_planes)?;
    let _clock_starts = uptime();
    let mut registry = Registry::default();
    register_process(&mut registry, "data-plane", env!("CARGO_PKG_VERSION"));
    let metrics = Arc::new(ProxyMetrics::register(&mut registry));
    let (liveness, readiness) = (Liveness::default(), Readiness::default());
    let tasks = Tasks::new(liveness.clone(), drain.clone());
    let tls = TlsFolder::follow(tls, &mut registry, &tasks).await?;
    let (listeners, bound) = bind(address, workers)?;
    let gateways = match picker {
        Some(options) => Some(GatewayEntry::open(options, &tasks).await?),
        None => None,
    };

    let (routing, access_log) = (RoutingState::default(), Arc::<AccessLog>::default());
    let admin = Admin::new(readiness.clone(), registry).with_liveness(liveness);
    let admin = admin::routes(admin, routing.clone(), Arc::clone(&access_log));
    let admin_bound = serve_admin(admin, admin_address, &tasks, &drain).await?;

    let identity = ProxyIdentity::new(name);
    let (reporter, reports) = Reporter::new();
    let reporter = Arc::new(reporter);
    let sinks = (Arc::clone(&reporter), access_log);
    let doors = Doors::new(identity.proxy, &routing, sinks, &metrics, &drain);
    let gate = readiness.gate("snapshot");
    let snapshots = SnapshotStore::new(routing, Arc::clone(&metrics), gate, workers);
    let dialer = Dialer { tls };
    let control_planes = ControlPlaneTargets { targets, dialer };
    let (clients, runtimes) = listeners.into_workers();
    let sync = sync::run(
        control_planes,
        identity,
        snapshots,
        reporter,
        reports,
        metrics,
        Arc::clone(&runtimes),
    );
    spawn_sync(sync, &tasks, &drain);
    not_ready_while_draining(&readiness, &tasks, &drain);
    let picker_bound = gateways.as_ref().map(|gateways| gateways.bound);
    doors.serve_listeners(listener_certificates, &runtimes, &tasks);
    doors.serve_clients(clients, &tasks);
    if let Some(gateways) = gateways {
        doors.serve_gateways(gateways, (&readiness, runtimes), &tasks);
    }
    tracing::info!(listen = %bound, admin = ?admin_bound, picker = ?picker_bound, "the data plane listens");
    Ok(DataPlane {
        listen: bound,
        admin: admin_bound,
        picker: picker_bound,
        readiness,
        tasks,
    })
}

/// The names of control planes, at least one.
fn targets_of(names: Vec<String>) -> Result<Vec<ControlPlaneTarget>, DataPlaneStartError> {
    if names.is_empty() {
        return Err(DataPlaneStartError::NoControlPlane);
    }
    names
        .into_iter()
        .map(|name| ControlPlaneTarget::try_from(name).map_err(DataPlaneStartError::Name))
        .collect()
}

/// Binds the clients' port for every worker; returns its address.
fn bind(
    address: SocketAddr,
    workers: NonZeroUsize,
) -> Result<(Listeners, SocketAddr), DataPlaneStartError> {
    let cannot_listen = |source| DataPlaneStartError::Listen { address, source };
    let listeners = Listeners::bind(address, workers).map_err(cannot_listen)?;
    let bound = listeners.address().map_err(cannot_listen)?;
    Ok((listeners, bound))
}

/// What requests come in by, and what all of them share.
struct Doors {
    placer: Arc<Placer>,
    proxy: Arc<Proxy>,
    routing: RoutingState,
    metrics: Arc<ProxyMetrics>,
    drain: Drain,
}

/// The port for gateways: bound, and not served yet.
struct GatewayEntry {
    listener: TcpListener,
    bound: SocketAddr,
    certificate: Option<ServerCertificate>,
    endpoints: usize,
}

impl GatewayEntry {
    async fn open(options: PickerOptions, tasks: &Tasks) -> Result<Self, DataPlaneStartError> {
        let PickerOptions {
            listen: address,
            tls,
            endpoints,
        } = options;
        let cannot_listen = |source| DataPlaneStartError::PickerListen { address, source };
        let listener = TcpListener::bind(address).await.map_err(cannot_listen)?;
        let certificate = match tls {
            Some(folder) => {
                let followed = ServerCertificate::follow(folder, "picker-tls", tasks).await;
                Some(followed.map_err(DataPlaneStartError::PickerTls)?)
            }
            None => None,
        };
        Ok(Self {
            bound: listener.local_addr().map_err(cannot_listen)?,
            listener,
            certificate,
            endpoints: endpoints.get(),
        })
    }
}

impl Doors {
    /// `run` is the random id of this run.
    fn new(
        run: u64,
        routing: &RoutingState,
        sinks: (Arc<Reporter>, Arc<AccessLog>),
        metrics: &Arc<ProxyMetrics>,
        drain: &Drain,
    ) -> Self {
        let placer = Arc::new(Placer::new(
            routing.clone(),
            run,
            sinks,
            Arc::clone(metrics),
            (drain.clone(), AdmissionLimit::new(memory_limit())),
        ));
        let proxy = Arc::new(Proxy::new(
            routing.clone(),
            run,
            Arc::clone(&placer),
            Arc::clone(metrics),
            drain.clone(),
        ));
        Self {
            placer,
            proxy,
            routing: routing.clone(),
            metrics: Arc::clone(metrics),
            drain: drain.clone(),
        }
    }

    /// Opens and closes the ports that snapshots list. Their certificates are below `certificates`.
    fn serve_listeners(
        &self,
        certificates: Option<PathBuf>,
        workers: &Arc<[WorkerRuntime]>,
        tasks: &Tasks,
    ) {
        let ports = PortOpener::new(
            self.routing.clone(),
            Arc::clone(&self.proxy),
            Arc::clone(workers),
            CertificateFolders::new(certificates),
            self.drain.clone(),
        );
        tasks.spawn("listeners", ports.run());
    }

    /// Serves the usual port, one task a worker.
    fn serve_clients(&self, workers: Vec<Worker>, tasks: &Tasks) {
        for worker in workers {
            let name = worker.name();
            tasks.spawn(
                name,
                worker.serve(Arc::clone(&self.proxy), self.drain.clone()),
            );
        }
    }

    fn serve_gateways(
        self,
        gateways: GatewayEntry,
        (readiness, workers): (&Readiness, Arc<[WorkerRuntime]>),
        tasks: &Tasks,
    ) {
        let door = PickerDoor {
            placer: self.placer,
            routing: self.routing,
            metrics: Arc::clone(&self.metrics),
            endpoints: gateways.endpoints,
        };
        let port = PickerPort {
            metrics: self.metrics,
            service: ExtProcService::new(door, readiness.clone()),
            certificate: gateways.certificate,
            drain: self.drain,
        };
        tasks.spawn("gateways", port.serve(gateways.listener, workers));
    }
}

/// Serves the admin port, if there is one; returns its address.
async fn serve_admin(
    admin: Admin,
    address: Option<SocketAddr>,
    tasks: &Tasks,
    drain: &Drain,
) -> Result<Option<SocketAddr>, BindError> {
    let Some(address) = address else {
        return Ok(None);
    };
    let admin = admin.bind(address, "--admin").await?;
    let bound = admin.local_addr();
    tasks.spawn("admin", admin.serve(drain.forced()));
    Ok(Some(bound))
}

/// Follows the control plane to the end of the drain: requests that finish during it still report.
fn spawn_sync(sync: impl Future<Output = ()> + Send + 'static, tasks: &Tasks, drain: &Drain) {
    let stop = drain.forced();
    tasks.spawn("sync", async move {
        tokio::select! {
            () = sync => {}
            () = stop => {}
        }
    });
}

/// Step one of a drain: readiness fails, so that load balancers send no new traffic.
fn not_ready_while_draining(readiness: &Readiness, tasks: &Tasks, drain: &Drain) {
    let gate = readiness.gate("drain");
    gate.open();
    let (draining, forced) = (drain.draining(), drain.forced());
    tasks.spawn("drain", async move {
        draining.await;
        gate.close("shutting down");
        forced.await;
    });
}
