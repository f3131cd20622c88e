//! The ports of listeners: opened and closed as the snapshot changes.
//!
//! ```text
//!   view ─▶ PortOpener: bind for each worker ─▶ worker's runtime: http::serve
//!               └─ a port that is taken: logged, counted, tried again
//! ```
//!
//! One task owns the ports. A port that is not wanted any more accepts nothing; its connections
//! finish their requests as in a drain. Certificates are read by the same task, while a listener
//! names any: from the folder of the proxy, and from what the control plane has sent. A folder comes
//! first, as an operator has put it there for this proxy.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{SocketAddr, TcpListener as BoundListener},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};

use hermes_core::{address::ServerScheme, backoff::Backoff, certificate, listener::Listener};
use hermes_runtime::{
    shutdown::{Drain, PartialDrain},
    tls::{CertificateFolders, WantedCertificate},
};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    http, port_certificates::PortCertificates, served_port::ServedPort, workers::Listeners,
};
use crate::{
    proxy::Proxy,
    request::entry::ClientEntry,
    sync::{ListenerPort, RoutingState, SentCertificates},
    worker::WorkerRuntime,
};

/// How often certificates are read while any are wanted.
const CERTIFICATES: Duration = Duration::from_secs(1);

/// The shortest and the longest pause after a port could not be taken.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// How long nothing is looked at when there is nothing to do.
const LONG: Duration = Duration::from_secs(3_600);

/// See the module.
pub(crate) struct PortOpener {
    routing: RoutingState,
    proxy: Arc<Proxy>,
    workers: Arc<[WorkerRuntime]>,
    certificates: CertificateFolders,
    sent: watch::Receiver<Arc<SentCertificates>>,
    drain: Drain,
    open: BTreeMap<SocketAddr, OpenPort>,
    failed: BTreeMap<SocketAddr, FailedPort>,
    /// Of ports that are closed, and whose connections have not all ended.
    closing: Vec<AbortOnDropHandle<()>>,
}

/// A port that is served.
struct OpenPort {
    bound: SocketAddr,
    /// Present if its connections are secured.
    certificates: Option<Arc<PortCertificates>>,
    close: PartialDrain,
    /// One for each worker.
    serving: Vec<AbortOnDropHandle<()>>,
}

/// A port that could not be taken.
struct FailedPort {
    error: String,
    backoff: Backoff,
    again: Instant,
}

/// The listeners of each address.
type WantedPorts = BTreeMap<SocketAddr, Vec<Arc<Listener>>>;

impl PortOpener {
    /// `workers`: the runtimes of the threads that serve clients.
    pub(crate) fn new(
        routing: RoutingState,
        proxy: Arc<Proxy>,
        workers: Arc<[WorkerRuntime]>,
        certificates: CertificateFolders,
        drain: Drain,
    ) -> Self {
        let sent = routing.certificates.sent();
        Self {
            routing,
            proxy,
            workers,
            certificates,
            sent,
            drain,
            open: BTreeMap::new(),
            failed: BTreeMap::new(),
            closing: Vec::new(),
        }
    }

    /// Follows the view until the process has drained.
    pub(crate) async fn run(mut self) {
        let draining = self.drain.draining();
        tokio::pin!(draining);
        let routing = self.routing.clone();
        loop {
            let changed = routing.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            self.follow().await;
            let pause = self.pause();
            tokio::select! {
                () = &mut changed => {}
                // The sender is in the routing state.
                _sent = self.sent.changed() => {}
                () = sleep(pause) => {}
                () = &mut draining => break,
            }
        }
        // The ports drain with the process.
        self.drain.forced().await;
    }

    /// Opens and closes ports, so that they are those of the newest view.
    async fn follow(&mut self) {
        let Some(view) = self.routing.view.load_full() else {
            return;
        };
        let mut wanted = WantedPorts::new();
        for listener in &view.snapshot.listeners {
            let port = wanted.entry(listener.address).or_default();
            port.push(Arc::clone(listener));
        }
        self.close_others(&wanted);
        self.read_certificates(&wanted).await;
        for (address, listeners) in &wanted {
            match self.open.get(address) {
                Some(port) => {
                    let certificates = port.certificates.iter();
                    certificates.for_each(|certificates| certificates.set(listeners));
                }
                None => self.open(*address, listeners).await,
            }
        }
        self.publish(&wanted);
    }

    /// Reads the certificates that listeners name.
    async fn read_certificates(&mut self, wanted: &WantedPorts) {
        let listeners = wanted.values().flatten();
        let secured = listeners.filter_map(|listener| listener.tls.as_ref());
        let names: BTreeSet<Arc<str>> =
            secured.flat_map(|tls| &tls.certificates).cloned().collect();
        let is_any_sent = names.iter().any(|name| certificate::is_sent(name));
        self.routing.certificates.want(is_any_sent);
        let sent = Arc::clone(&self.sent.borrow_and_update());
        let wanted = names.iter().map(|name| WantedCertificate {
            name: Arc::clone(name),
            is_sent: certificate::is_sent(name),
            sent: sent.find(name).cloned(),
        });
        self.certificates.read(wanted.collect()).await;
        let store = self.certificates.store();
        let usable = names.iter().filter(|name| store.find(name).is_some());
        self.proxy
            .metrics
            .ports
            .count_certificates(usable.count(), names.len());
    }

    /// Why the certificate of this name is absent, or not the newest one.
    fn problem(&self, name: &str) -> Option<String> {
        if let Some(problem) = self.certificates.problem(name) {
            return Some(problem.to_owned());
        }
        let is_sent = certificate::is_sent(name) && !self.certificates.has(name);
        is_sent.then(|| self.sent.borrow().problem(name))?
    }

    fn close_others(&mut self, wanted: &WantedPorts) {
        self.failed
            .retain(|address, _| wanted.contains_key(address));
        self.closing.retain(|serving| !serving.is_finished());
        let is_wanted = |address: &SocketAddr, port: &OpenPort| {
            let listeners = wanted.get(address);
            listeners.is_some_and(|listeners| is_secured(listeners) == port.certificates.is_some())
        };
        let closed = self
            .open
            .extract_if(.., |address, port| !is_wanted(address, port));
        for (address, port) in closed {
            tracing::info!(%address, "a listener's port is closed; its connections finish their requests");
            port.close.begin();
            self.closing.extend(port.serving);
        }
    }

    async fn open(&mut self, address: SocketAddr, listeners: &[Arc<Listener>]) {
        let now = Instant::now();
        if self
            .failed
            .get(&address)
            .is_some_and(|failed| now < failed.again)
        {
            return;
        }
        match self.take(address, listeners).await {
            Ok(port) => {
                tracing::info!(%address, bound = %port.bound, "a listener's port is open");
                self.failed.remove(&address);
                self.open.insert(address, port);
            }
            Err(error) => self.fail(address, &error, now),
        }
    }

    /// Binds the port for every worker, and has it served.
    async fn take(&self, address: SocketAddr, listeners: &[Arc<Listener>]) -> io::Result<OpenPort> {
        let count = NonZeroUsize::new(self.workers.len()).unwrap_or(NonZeroUsize::MIN);
        let bound_listeners = Listeners::bind(address, count)?;
        let bound = bound_listeners.address()?;
        let (drain, close) = self.drain.of_part();
        let certificates = is_secured(listeners)
            .then(|| PortCertificates::new(self.certificates.store(), listeners.to_vec()));
        let port = Arc::new(ServedPort {
            proxy: Arc::clone(&self.proxy),
            entry: ClientEntry {
                port: Some(address),
                scheme: match certificates {
                    Some(_) => ServerScheme::Https,
                    None => ServerScheme::Http,
                },
            },
            drain,
            tls: certificates
                .as_ref()
                .map(|certificates| Arc::new(certificates.config())),
        });
        let mut serving = Vec::new();
        for (worker, listener) in self.workers.iter().zip(bound_listeners.into_bound()) {
            // A worker whose thread could not start serves nothing.
            if let Some(runtime) = worker.handle().await {
                let served = serve(listener, Arc::clone(&port));
                serving.push(AbortOnDropHandle::new(runtime.spawn(served)));
            }
        }
        Ok(OpenPort {
            bound,
            certificates,
            close,
            serving,
        })
    }

    fn fail(&mut self, address: SocketAddr, error: &io::Error, now: Instant) {
        self.proxy.metrics.ports.bind_failures.inc();
        let failed = self.failed.entry(address).or_insert_with(|| FailedPort {
            error: String::new(),
            backoff: Backoff::new(RETRY, u64::from(address.port())),
            again: now,
        });
        let text = error.to_string();
        if failed.error != text {
            tracing::error!(%address, error = text, "a listener's port cannot be opened; it is tried again");
            failed.error = text;
        }
        failed.again = now + failed.backoff.next_pause();
    }

    /// How long there is nothing to do, unless the view changes.
    fn pause(&self) -> Duration {
        let now = Instant::now();
        let failed = self.failed.values();
        let retries = failed.map(|failed| failed.again.saturating_duration_since(now));
        let mut ports = self.open.values();
        let reads = ports.any(|port| port.certificates.is_some());
        let reads = reads.then_some(CERTIFICATES);
        retries.chain(reads).min().unwrap_or(LONG)
    }

    /// Publishes the ports for the metrics and the debug pages.
    fn publish(&self, wanted: &WantedPorts) {
        let metrics = &self.proxy.metrics.ports;
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.open.set(count(self.open.len()));
        metrics.failed.set(count(self.failed.len()));
        let port = |(address, listeners): (&SocketAddr, &Vec<Arc<Listener>>)| {
            let secured = listeners
                .iter()
                .filter_map(|listener| listener.tls.as_ref());
            let names = secured.flat_map(|tls| &tls.certificates);
            let problems = names.filter_map(|name| self.problem(name));
            ListenerPort {
                address: *address,
                listeners: listeners.iter().map(|one| Arc::clone(&one.name)).collect(),
                bound: self.open.get(address).map(|port| port.bound),
                error: self.failed.get(address).map(|failed| failed.error.clone()),
                certificate_problems: problems.collect(),
            }
        };
        let ports = wanted.iter().map(port).collect();
        self.routing.ports.store(Arc::new(ports));
    }
}

fn is_secured(listeners: &[Arc<Listener>]) -> bool {
    listeners.iter().any(|listener| listener.tls.is_some())
}

/// Serves a port's clients on the thread of one worker.
async fn serve(listener: BoundListener, port: Arc<ServedPort>) {
    match TcpListener::from_std(listener) {
        Ok(listener) => http::serve(listener, port).await,
        Err(error) => tracing::error!(%error, "a listener's port cannot be served"),
    }
}
