//! One thread a core for clients, each with a runtime, a listener and connections to endpoints of its own.
//!
//! ```text
//!   kernel (SO_REUSEPORT) ─┬─▶ clients-0: accept ─▶ proxy ─▶ idle connections 0
//!                          └─▶ clients-1: accept ─▶ proxy ─▶ idle connections 1     everything else is shared
//! ```
//!
//! A request stays on the thread that accepted its connection. With one runtime over all cores, each event that wakes
//! a request wakes a second thread too, which finds nothing to do; at few connections that is half of the cost.

use std::{io, net::SocketAddr, sync::Arc, thread};

use hermes_runtime::shutdown::Drain;
use tokio::{net::TcpListener, runtime, sync::oneshot};
use tokio_util::sync::CancellationToken;

use super::http;
use crate::{endpoint::worker, proxy::Proxy};

/// The port for clients: taken, and not served yet.
pub(crate) struct Door {
    /// One for each worker.
    listeners: Vec<std::net::TcpListener>,
    /// Served by threads, or by the runtime that serves the door.
    threads: bool,
}

impl Door {
    /// Takes the port, once for each of `workers` threads.
    pub(crate) fn bind(address: SocketAddr, workers: usize) -> io::Result<Self> {
        if workers == 0 {
            return Ok(Self {
                listeners: vec![http::bind(address, false)?],
                threads: false,
            });
        }
        // A shared port can be taken twice, also by another process: whether it is free, only an unshared socket tells.
        drop(http::bind(address, false)?);
        let first = http::bind(address, true)?;
        // Port 0 is any free one, and then the same for all.
        let bound = first.local_addr()?;
        let mut listeners = vec![first];
        for _ in 1..workers {
            listeners.push(http::bind(bound, true)?);
        }
        Ok(Self {
            listeners,
            threads: true,
        })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listeners[0].local_addr()
    }

    /// Serves until the drain is over. Dropped before, it ends its threads.
    pub(crate) async fn serve(self, proxy: Arc<Proxy>, drain: Drain) {
        let Self { listeners, threads } = self;
        if threads {
            return serve_by_threads(listeners, proxy, drain).await;
        }
        for listener in listeners {
            match TcpListener::from_std(listener) {
                Ok(listener) => http::serve(listener, Arc::clone(&proxy), drain.clone()).await,
                Err(error) => tracing::error!(%error, "the port for clients cannot be served"),
            }
        }
    }
}

async fn serve_by_threads(listeners: Vec<std::net::TcpListener>, proxy: Arc<Proxy>, drain: Drain) {
    let stop = CancellationToken::new();
    let _stops_when_dropped = stop.clone().drop_guard();
    let mut ends = Vec::new();
    for (index, listener) in listeners.into_iter().enumerate() {
        let (ended, end) = oneshot::channel();
        let (proxy, drain, stop) = (Arc::clone(&proxy), drain.clone(), stop.clone());
        let worker = move || {
            worker::set_index(index);
            // Nobody waits any more when the data plane is being dropped.
            let _ = ended.send(run(listener, proxy, drain, stop));
        };
        if let Err(error) = thread::Builder::new()
            .name(format!("clients-{index}"))
            .spawn(worker)
        {
            tracing::error!(%error, "a thread for clients cannot be started");
            return;
        }
        ends.push(end);
    }
    for end in ends {
        match end.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "a thread for clients could not serve"),
            Err(_) => tracing::error!("a thread for clients panicked"),
        }
    }
}

fn run(
    listener: std::net::TcpListener,
    proxy: Arc<Proxy>,
    drain: Drain,
    stop: CancellationToken,
) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener)?;
        stop.run_until_cancelled(http::serve(listener, proxy, drain))
            .await;
        Ok(())
    })
}
