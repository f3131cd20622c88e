//! The port for gateways: connections of HTTP/2, dealt out to the workers in turn.
//!
//! ```text
//!   gateway ─▶ accept ─▶ worker 0, 1, 0, … : TLS handshake, if there are certificates ─▶ HTTP/2 ─▶ ExtProcService
//! ```
//!
//! When the drain begins, the health checks of this port fail at once, and everything else goes on for
//! [`NOTICE`]: a gateway that asks for its requests' destination has no other way to be refused than
//! by an error for its client.
//!
//! A gateway opens few connections, one for each of its own threads, and keeps them: the kernel's
//! spreading of connections over listeners would leave workers without one.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use hermes_runtime::{shutdown::Drain, tls::ServerCertificate};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::stream_tasks::StreamTasks;
use crate::{
    picker::service::ExtProcService, tcp::VanishedPeer, telemetry::metrics::ProxyMetrics,
    worker::WorkerRuntime,
};

/// Open connections of gateways. Above it a new one waits in the kernel.
const MAX_CONNECTIONS: usize = 4_096;

/// Requests at once on one connection, and windows large enough that slow ones do not stall their
/// neighbours. A gateway with more requests opens another connection.
const STREAMS: u32 = 1_024;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long gateways may take to notice that this process drains, by its health checks or by a
/// changed list of addresses.
const NOTICE: Duration = Duration::from_secs(5);

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// The pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A gateway whose host or network vanished.
const VANISHED: VanishedPeer = VanishedPeer {
    keep_alive: Duration::from_secs(60),
    probe: Duration::from_secs(15),
    probes: 4,
    unacknowledged: Duration::from_secs(30),
};

/// What the connections of gateways share.
#[derive(Clone)]
pub(crate) struct PickerPort {
    pub(crate) service: ExtProcService,
    /// Absent for connections without TLS.
    pub(crate) certificate: Option<ServerCertificate>,
    pub(crate) metrics: Arc<ProxyMetrics>,
    pub(crate) drain: Drain,
}

impl PickerPort {
    /// Serves gateways on the threads of the workers until the drain is forced, or all have left
    /// after it began.
    pub(crate) async fn serve(self, listener: TcpListener, workers: Arc<[WorkerRuntime]>) {
        let mut connections = JoinSet::new();
        self.accept(&listener, &workers, &mut connections).await;
        // The kernel refuses new ones from now on.
        drop(listener);
        let forced = self.drain.forced();
        tokio::pin!(forced);
        loop {
            tokio::select! {
                () = &mut forced => return,
                left = connections.join_next() => if left.is_none() { return },
            }
        }
    }

    /// Resolves when gateways have had their time to notice the drain.
    async fn noticed(&self) {
        self.drain.draining().await;
        tokio::select! {
            () = sleep(NOTICE) => {}
            () = self.drain.forced() => {}
        }
    }

    /// Accepts connections until gateways have noticed that the drain has begun.
    async fn accept(
        &self,
        listener: &TcpListener,
        workers: &[WorkerRuntime],
        connections: &mut JoinSet<()>,
    ) {
        let noticed = self.noticed();
        tokio::pin!(noticed);
        let mut turns = (0..workers.len()).cycle();
        loop {
            tokio::select! {
                () = &mut noticed => return,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                    Ok((stream, gateway)) => {
                        let worker = turns.next().map(|turn| &workers[turn]);
                        self.hand_to(worker, stream, gateway, connections).await;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "cannot accept a gateway's connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    /// Serves the connection on the worker's thread, whose reactor polls its socket.
    async fn hand_to(
        &self,
        worker: Option<&WorkerRuntime>,
        stream: TcpStream,
        gateway: SocketAddr,
        connections: &mut JoinSet<()>,
    ) {
        let Some(worker) = worker else { return };
        // The thread could not start: its connections are closed, and the process is unhealthy.
        let Some(runtime) = worker.handle().await else {
            return;
        };
        match stream.into_std() {
            Ok(stream) => {
                let port = self.clone();
                connections.spawn_on(port.connection(stream, gateway), &runtime);
            }
            Err(error) => tracing::debug!(%error, "a gateway's socket cannot be moved"),
        }
    }

    async fn connection(self, stream: std::net::TcpStream, gateway: SocketAddr) {
        // The process waits until its streams have ended.
        let _work = self.drain.track();
        let metrics = Arc::clone(&self.metrics);
        metrics.picker.connections.inc();
        if let Err(error) = self.exchange(stream, gateway).await {
            tracing::debug!(%gateway, %error, "a gateway's connection ended early");
        }
        metrics.picker.connections.dec();
    }

    async fn exchange(self, stream: std::net::TcpStream, gateway: SocketAddr) -> io::Result<()> {
        let stream = TcpStream::from_std(stream)?;
        VANISHED.prepare(&stream)?;
        let Some(certificate) = &self.certificate else {
            return self.http2(stream, gateway).await;
        };
        let acceptor = TlsAcceptor::from(certificate.newest());
        let secured = timeout(HANDSHAKE, acceptor.accept(stream)).await;
        let secured = secured.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        self.http2(secured, gateway).await
    }

    /// Answers calls until either side closes the connection.
    async fn http2<S>(self, stream: S, gateway: SocketAddr) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let service = self.service.clone();
        let service = service_fn(move |call: http::Request<Incoming>| {
            let service = service.clone();
            async move { Ok::<_, Infallible>(service.call(call, gateway).await) }
        });
        let streams = StreamTasks::default();
        let connection = http2::Builder::new(streams.executor())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.noticed() => {
                // Streams that are open finish; the gateway asks another picker from now on.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        ended.map_err(io::Error::other)
    }
}
