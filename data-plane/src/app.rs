//! Wiring: a data plane from its options, every port bound before anything is served.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, LazyLock, atomic::AtomicU64},
    time::Duration,
};

use hermes_runtime::{
    admin::{Admin, BindError},
    metrics::register_process,
    readiness::{Liveness, Readiness},
    shutdown::Drain,
    tasks::Tasks,
    tls::{TlsError, TlsFolder},
};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::{
    admin,
    choose::Chooser,
    forward::Forwarder,
    gate::Gate,
    metrics::Metrics,
    proxy::Proxy,
    records::Records,
    report::Reporter,
    sync::{self, ControlPlanes, Dialer, Knowledge, Target},
    workers::Door,
};

/// Everything that a data plane is told; the rest comes from the control plane.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where control planes are, as `host:port`; each name may stand for several replicas.
    pub control_planes: Vec<String>,
    /// A folder with `ca.crt`, `tls.crt` and `tls.key`: control planes are then reached by TLS, and must show a certificate
    /// that this authority signed for the name by which they are dialed.
    pub tls: Option<PathBuf>,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where operators and probes connect; `None` for no admin port.
    pub admin: Option<SocketAddr>,
    /// For people: the pod's name.
    pub name: String,
    /// Threads that serve clients; with 0 the runtime that starts the data plane serves them.
    pub workers: usize,
}

/// A data plane that serves.
#[derive(Debug)]
pub struct Bound {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where operators and probes connect.
    pub admin: Option<SocketAddr>,
    /// Whether it has a snapshot.
    pub readiness: Readiness,
    /// The tasks that serve; when it is dropped they end.
    pub tasks: Tasks,
}

/// Why a data plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The clients' port is taken, or may not be.
    #[error("cannot listen on {address} (--listen): {source}")]
    Listen {
        /// The port.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The admin port is taken, or may not be.
    #[error(transparent)]
    Admin(#[from] BindError),
    /// The folder of certificates cannot be used.
    #[error("{0} (--tls)")]
    Tls(#[from] TlsError),
    /// A control plane is named by what is no address.
    #[error(
        "a control plane is host:port, with a DNS name or an IP address, not {0:?} (--control-plane)"
    )]
    Name(String),
    /// There is nobody to learn from.
    #[error("no control plane is named; --control-plane must be http://host:port")]
    NoControlPlane,
}

impl Options {
    /// Any free ports on the loopback interface, and the caller's runtime: for tests.
    #[must_use]
    pub fn local(control_planes: Vec<String>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            control_planes,
            tls: None,
            listen: any,
            admin: Some(any),
            name: "test".to_owned(),
            workers: 0,
        }
    }
}

/// Who this proxy is, for the control plane.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// This run; drawn at random.
    pub(crate) proxy: u64,
    name: String,
}

impl Identity {
    pub(crate) fn hello(&self) -> hermes_proto::v1::Hello {
        hermes_proto::v1::Hello {
            proxy: self.proxy,
            name: self.name.clone(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// The start of the process's clock: pure code takes times as durations since then.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time since the start.
pub(crate) fn uptime() -> Duration {
    START.elapsed()
}

/// Starts a data plane; it serves until `drain` is over.
///
/// # Errors
///
/// When a port cannot be taken, or no control plane is named.
pub async fn start(options: Options, drain: Drain) -> Result<Bound, StartError> {
    let Options {
        control_planes,
        tls,
        listen: address,
        admin: admin_address,
        name,
        workers,
    } = options;
    if control_planes.is_empty() {
        return Err(StartError::NoControlPlane);
    }
    let _clock = uptime();
    let mut registry = Registry::default();
    register_process(&mut registry, "data-plane", env!("CARGO_PKG_VERSION"));
    let metrics = Arc::new(Metrics::register(&mut registry));
    let liveness = Liveness::default();
    let readiness = Readiness::default();
    let tasks = Tasks::new(liveness.clone(), drain.clone());
    let dialer = Dialer {
        tls: TlsFolder::follow(tls, &mut registry, &tasks).await?,
    };
    let targets = control_planes
        .into_iter()
        .map(Target::try_from)
        .collect::<Result<_, _>>()
        .map_err(StartError::Name)?;
    let door =
        Door::bind(address, workers).map_err(|source| StartError::Listen { address, source })?;
    let bound = door
        .address()
        .map_err(|source| StartError::Listen { address, source })?;

    let knowledge = Knowledge::default();
    let records = Arc::new(Records::default());
    let admin_bound = match admin_address {
        Some(address) => {
            let admin = Admin::new(readiness.clone(), registry).with_liveness(liveness);
            let admin = admin::routes(admin, knowledge.clone(), Arc::clone(&records))
                .bind(address, "--admin")
                .await?;
            let bound = admin.local_addr();
            tasks.spawn("admin", admin.serve(drain.forced()));
            Some(bound)
        }
        None => None,
    };

    let identity = Identity {
        proxy: seed(),
        name,
    };
    let (reporter, reports) = Reporter::new();
    let reporter = Arc::new(reporter);
    let proxy = Arc::new(Proxy {
        gate: Gate::default(),
        chooser: Chooser::new(knowledge.clone(), identity.proxy),
        forwarder: Forwarder {
            metrics: Arc::clone(&metrics),
        },
        responses: Arc::default(),
        reporter: Arc::clone(&reporter),
        records,
        metrics: Arc::clone(&metrics),
        drain: drain.clone(),
        requests: AtomicU64::new(1),
        run: identity.proxy,
        knowledge: knowledge.clone(),
    });
    let gate = readiness.gate("snapshot");
    let stop = drain.forced();
    let learning = sync::run(
        ControlPlanes { targets, dialer },
        identity,
        knowledge,
        reporter,
        reports,
        metrics,
        gate,
    );
    tasks.spawn("sync", async move {
        tokio::select! {
            () = learning => {}
            // Reports go on while requests finish: it ends last.
            () = stop => {}
        }
    });
    not_ready_while_draining(&readiness, &tasks, &drain);
    tasks.spawn("clients", door.serve(proxy, drain));
    tracing::info!(listen = %bound, admin = ?admin_bound, "the data plane listens");
    Ok(Bound {
        listen: bound,
        admin: admin_bound,
        readiness,
        tasks,
    })
}

/// Step one of a drain: no new traffic is wanted.
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

/// Cores that this process may use: as many threads serve clients unless told otherwise.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

/// A number that no other run has: the hasher's keys are random.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
