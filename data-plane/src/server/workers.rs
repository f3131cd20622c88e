//! One thread a core for clients, each with a runtime, a listener and idle connections of its own.
//!
//! ```text
//!   kernel (SO_REUSEPORT) ─┬─▶ clients-0: accept ─▶ proxy ─▶ idle connections 0, Score streams 0
//!                          └─▶ clients-1: accept ─▶ proxy ─▶ idle connections 1, Score streams 1     (all else is shared)
//! ```
//!
//! A request stays on the thread that accepted its connection. With one runtime over all cores,
//! each event that wakes a request wakes a second thread too, which finds nothing to do; at few
//! connections that is half of the cost.
//!
//! Invariant: a connection to an endpoint is used on the thread whose reactor polls its socket, so
//! the end of one worker's runtime breaks no stream of another worker.

use std::{io, net::SocketAddr, num::NonZeroUsize, sync::Arc, thread};

use hermes_runtime::shutdown::Drain;
use tokio::{net::TcpListener, runtime, sync::oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    proxy::Proxy,
    server::{http, served_port::ServedPort},
    worker::{self, WorkerRuntime},
};

/// The port for clients: bound, and not served yet. One listener for each worker.
pub(crate) struct Listeners(Vec<std::net::TcpListener>);

/// One listener, and the index of the thread that will serve it.
pub(crate) struct Worker {
    index: usize,
    listener: std::net::TcpListener,
    /// Publishes the thread's runtime.
    started: oneshot::Sender<runtime::Handle>,
}

// === Listeners ===

impl Listeners {
    /// Binds the port once for each of `workers` threads.
    pub(crate) fn bind(address: SocketAddr, workers: NonZeroUsize) -> io::Result<Self> {
        // Another process can bind a shared port too: only an unshared socket shows whether it is
        // free.
        drop(http::bind(address, false)?);
        let first = http::bind(address, true)?;
        // Port 0 is any free one, and then the same for all.
        let bound = first.local_addr()?;
        let mut listeners = vec![first];
        for _ in 1..workers.get() {
            listeners.push(http::bind(bound, true)?);
        }
        Ok(Self(listeners))
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.0[0].local_addr()
    }

    /// The listeners themselves, one for each worker.
    pub(super) fn into_bound(self) -> Vec<std::net::TcpListener> {
        self.0
    }

    /// The workers, to be served each by a task of its own: the end of one is the end of one task.
    /// The second list has their runtimes, in the same order.
    pub(crate) fn into_workers(self) -> (Vec<Worker>, Arc<[WorkerRuntime]>) {
        let workers = self.0.into_iter().enumerate().map(|(index, listener)| {
            let (started, runtime) = WorkerRuntime::pending();
            let worker = Worker {
                index,
                listener,
                started,
            };
            (worker, runtime)
        });
        let (workers, runtimes): (Vec<_>, Vec<_>) = workers.unzip();
        (workers, runtimes.into())
    }
}

// === Worker ===

impl Worker {
    /// Names the thread, and the task that waits for it.
    pub(crate) fn name(&self) -> String {
        format!("clients-{}", self.index)
    }

    /// Serves clients on a thread of its own until the drain is over. Dropped before, it ends the
    /// thread.
    pub(crate) async fn serve(self, proxy: Arc<Proxy>, drain: Drain) {
        let stop = CancellationToken::new();
        let _stops_when_dropped = stop.clone().drop_guard();
        let name = self.name();
        let (ended, end) = oneshot::channel();
        let serve = move || {
            // The receiver is gone when the data plane is being dropped.
            let _ = ended.send(self.run(proxy, drain, stop));
        };
        if let Err(error) = thread::Builder::new().name(name.clone()).spawn(serve) {
            tracing::error!(%error, worker = name, "cannot start the thread");
            return;
        }
        match end.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, worker = name, "cannot serve clients"),
            Err(_) => tracing::error!(worker = name, "the thread panicked"),
        }
    }

    /// Serves clients on this thread.
    fn run(self, proxy: Arc<Proxy>, drain: Drain, stop: CancellationToken) -> io::Result<()> {
        worker::set_index(self.index);
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        // Nothing waits for it when the data plane is being dropped.
        let _ = self.started.send(runtime.handle().clone());
        let served = runtime.block_on(async move {
            let listener = TcpListener::from_std(self.listener)?;
            let port = ServedPort::usual(proxy, drain.clone());
            let serving = async {
                http::serve(listener, port).await;
                // Connections of gateways and of other ports are served on this thread, too.
                drain.forced().await;
            };
            stop.run_until_cancelled(serving).await;
            Ok(())
        });
        // The lookup of a name holds a thread of the runtime until the resolver answers.
        runtime.shutdown_background();
        served
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use hermes_runtime::shutdown::Shutdown;
    use prometheus_client::registry::Registry;
    use tokio::time::timeout;

    use super::*;
    use crate::{
        link::report::Reporter,
        place::Placer,
        request::admission::AdmissionLimit,
        sync::RoutingState,
        telemetry::{access_log::AccessLog, metrics::ProxyMetrics},
    };

    fn proxy(drain: Drain) -> Arc<Proxy> {
        let (reporter, _reports) = Reporter::new();
        let metrics = ProxyMetrics::register(&mut Registry::default());
        let sinks = (Arc::new(reporter), Arc::new(AccessLog::default()));
        let (routing, metrics) = (RoutingState::default(), Arc::new(metrics));
        let limits = (drain.clone(), AdmissionLimit::new(None));
        let placer = Placer::new(routing.clone(), 1, sinks, Arc::clone(&metrics), limits);
        Arc::new(Proxy::new(routing, 1, Arc::new(placer), metrics, drain))
    }

    #[tokio::test]
    async fn a_lookup_that_hangs_does_not_delay_the_end_of_its_worker() {
        let ((shutdown, trigger), workers) = (Shutdown::manual(), NonZeroUsize::MIN);
        let listeners = Listeners::bind(([127, 0, 0, 1], 0).into(), workers).expect("a port");
        let (mut workers, runtimes) = listeners.into_workers();
        let (worker, drain) = (workers.remove(0), shutdown.drain());
        let serving = tokio::spawn(worker.serve(proxy(drain.clone()), drain));
        let runtime = runtimes[0].handle().await.expect("it has started");
        // As `getaddrinfo` does.
        let (begun, begins) = oneshot::channel();
        let (_answers, answer) = mpsc::sync_channel::<()>(1);
        runtime.spawn_blocking(move || (begun.send(()), answer.recv()));
        begins.await.expect("it has begun");

        let ending = tokio::spawn(shutdown.run(Duration::ZERO));
        trigger.fire();
        let served = timeout(Duration::from_secs(10), serving).await;
        served.expect("the thread ends").expect("no panic");
        ending.await.expect("no panic");
    }
}
