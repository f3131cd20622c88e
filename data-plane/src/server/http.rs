//! Accepting clients: HTTP/1.1, and HTTP/2 with prior knowledge or by ALPN, on one port.

use std::{convert::Infallible, io, iter, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use http::Request;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

use super::{
    answer_body,
    answer_progress::AnswerProgress,
    client_body::ClientBody,
    client_deadlines::{self, Overdue},
    client_requests::ClientRequests,
    client_socket::{self, ClientSocket},
    client_stream::ClientStream,
    graceful_close,
    lingering_close::linger,
    served_port::ServedPort,
    stream_tasks::{StreamExecutor, StreamTasks, progress_or},
};
use crate::proxy::Proxy;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4_096;

/// What hyper buffers of one connection, in bytes. A head above the proxy's own limit still fits,
/// so that it gets the proxy's own answer. hyper's limit of 100 fields in a head stays: up to it,
/// the parsed fields are on the stack.
const BUFFER: usize = 256 << 10;

/// HTTP/2: requests at once on one connection, and windows large enough that slow streams do not
/// stall their neighbours.
const H2_STREAMS: u32 = 1_024;
const H2_STREAM_WINDOW: u32 = 1 << 20;
const H2_CONNECTION_WINDOW: u32 = 16 << 20;
const H2_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Open connections of one worker's clients. Above it a new one waits in the kernel.
const MAX_CLIENTS: usize = 50_000;

/// Takes the port; `shared` with other listeners of this process, among which the kernel spreads
/// connections.
pub(crate) fn bind(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restarted proxy takes its port back while old connections still linger in the kernel.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Serves clients until the port's drain is forced, or everybody has left after it began.
pub(crate) async fn serve(listener: TcpListener, port: Arc<ServedPort>) {
    let mut clients = JoinSet::new();
    let draining = port.drain.draining();
    tokio::pin!(draining);
    let mut is_failing = false;
    loop {
        tokio::select! {
            () = &mut draining => break,
            Some(_) = clients.join_next(), if !clients.is_empty() => {}
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                Ok((stream, address)) => {
                    is_failing = false;
                    clients.spawn(client(stream, address, Arc::clone(&port)));
                }
                Err(error) => {
                    // Out of file descriptors, most likely: a moment later some are free again.
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!(%error, "cannot accept a connection; raise the limit of open files if this stays");
                    }
                    sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    // Step one of the drain: no new connection. The listener is closed before the wait, so that the
    // kernel refuses.
    drop(listener);
    let forced = port.drain.forced();
    tokio::pin!(forced);
    loop {
        tokio::select! {
            () = &mut forced => return,
            left = clients.join_next() => if left.is_none() { return },
        }
    }
}

async fn client(stream: TcpStream, address: SocketAddr, port: Arc<ServedPort>) {
    let proxy = &port.proxy;
    let _counted = Counted::new(proxy);
    // An idle connection is work, too, until it may be closed: the process waits for it.
    let _work = proxy.drain.track();
    if let Err(error) = client_socket::prepare(&stream, proxy.client_limits().send) {
        tracing::debug!(%error, "a client's socket cannot be prepared");
        return;
    }
    let Some(stream) = port.secured(stream).await else {
        return;
    };
    let requests = ClientRequests::new();
    exchange(stream, address, &port, &requests).await;
    if let Some(stream) = requests.take_leftover() {
        linger(stream, &port.drain).await;
    }
}

/// Answers the requests of one connection until either side closes it.
async fn exchange(
    stream: ClientStream,
    address: SocketAddr,
    port: &Arc<ServedPort>,
    requests: &ClientRequests,
) {
    let proxy = &port.proxy;
    let progress = Arc::new(AnswerProgress::new());
    let service = service_fn(|request: Request<Incoming>| {
        let open = requests.begin(request.version());
        let request = request.map(|body| ClientBody::new(body, requests.clone()));
        let (port, progress) = (Arc::clone(port), Arc::clone(&progress));
        async move {
            let proxy = &port.proxy;
            let response = proxy.serve(request, (address, &port.entry)).await;
            let drains = port.drain.is_draining();
            let send_timeout = proxy.client_limits().send;
            let progress = progress_or(&progress);
            Ok::<_, Infallible>(answer_body::answer(
                response,
                open,
                drains,
                progress,
                send_timeout,
            ))
        }
    });
    let streams = StreamTasks::default();
    let builder = builder(streams.executor());
    let socket = ClientSocket::new(stream, requests.clone());
    let connection = builder.serve_connection(TokioIo::new(socket), service);
    tokio::pin!(connection);
    // A set polls its future only when that future was woken, so that the events of the connection
    // do not touch the drain, which all connections of the process share.
    let may_close = graceful_close::may_close(requests.clone(), port.drain.clone());
    let mut may_close: FuturesUnordered<_> = iter::once(may_close).collect();
    let limits = || proxy.client_limits();
    let overdue = client_deadlines::overdue(requests.clone(), Arc::clone(&progress), limits);
    let mut overdue: FuturesUnordered<_> = iter::once(overdue).collect();
    let result = loop {
        tokio::select! {
            result = connection.as_mut() => break result,
            // Finishes the open requests and accepts no further one.
            Some(()) = may_close.next() => connection.as_mut().graceful_shutdown(),
            Some(late) = overdue.next() => match late {
                Overdue::Idle => connection.as_mut().graceful_shutdown(),
                Overdue::Head | Overdue::Answer => {
                    tracing::debug!(?late, "a client took too long; its connection is closed");
                    return;
                }
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended early");
    }
}

fn builder(streams: StreamExecutor) -> auto::Builder<StreamExecutor> {
    let mut builder = auto::Builder::new(streams);
    // The proxy has its own limit for heads: hyper's is one with that for idle connections.
    builder
        .http1()
        .header_read_timeout(None)
        .max_buf_size(BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(H2_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_header_list_size(BUFFER as u32)
        .keep_alive_interval(H2_KEEP_ALIVE)
        .keep_alive_timeout(H2_KEEP_ALIVE);
    builder
}

/// A client's place in the gauge.
struct Counted<'a>(&'a Proxy);

impl<'a> Counted<'a> {
    fn new(proxy: &'a Arc<Proxy>) -> Self {
        proxy.metrics.requests.client_connections.inc();
        Self(proxy)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.metrics.requests.client_connections.dec();
    }
}
