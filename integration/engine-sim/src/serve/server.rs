//! Connections: accepted, served by hyper, closed when idle, drained or cut off on command.
//!
//! One task accepts and owns all connection tasks in a `JoinSet`; dropping it ends everything. A
//! connection ends when the client leaves, after an idle time as uvicorn's, when the port begins to
//! refuse (after its current request), or when the engine stops or is killed.

use std::error::Error;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt, Either, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::service::Service;
use crate::api::reply::{Body, Broken, detail};
use crate::journal::RecordedRequest;
use crate::transport::port::Port;
use crate::transport::socket::{Fuse, Socket};

/// How long to wait after a failed `accept`, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Orders to the connections of one incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Orders {
    /// Grows each time open connections have to end after their current request.
    pub(crate) drains: u64,
    /// No connection is to be accepted any more.
    pub(crate) stopped: bool,
    /// Connections are reset.
    pub(crate) killed: bool,
}

/// Counts of connections, shared with the handle.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    pub(crate) accepted: AtomicU64,
    pub(crate) open: AtomicUsize,
}

struct Connection {
    service: Arc<Service>,
    activity: Arc<Activity>,
    counts: Arc<Connections>,
}

/// When a connection was last busy, so that one timer per connection is enough.
struct Activity {
    born: Instant,
    /// Milliseconds from `born` to the end of the last request; `BUSY` during one and before the
    /// first.
    idle_since: AtomicU64,
}

const BUSY: u64 = u64::MAX;

impl Activity {
    /// Resolves when the connection has been idle for that long.
    async fn expired(&self, keep_alive: Duration) {
        let mut due = Instant::now() + keep_alive;
        loop {
            tokio::time::sleep_until(due).await;
            let idle_since = self.idle_since.load(Ordering::Relaxed);
            due = if idle_since == BUSY {
                Instant::now()
            } else {
                self.born + Duration::from_millis(idle_since)
            } + keep_alive;
            if due <= Instant::now() {
                return;
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Accepts until ordered to stop, then waits until all connections have ended.
pub(crate) async fn serve(
    port: Arc<Port>,
    service: Arc<Service>,
    counts: Arc<Connections>,
    mut orders: watch::Receiver<Orders>,
) {
    let mut connections = JoinSet::new();
    let order_receiver = orders.clone();
    loop {
        tokio::select! {
            accepted = port.accept() => match accepted {
                Ok(stream) => {
                    connections.spawn(Connection::new(&service, &counts).run(stream, order_receiver.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the simulated engine could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection task of the simulated engine panicked");
                }
            }
            () = stopped(&mut orders) => break,
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Resolves when no connection is to be accepted any more, or the sender of orders is gone.
async fn stopped(orders: &mut watch::Receiver<Orders>) {
    let _ = orders.wait_for(|orders| orders.stopped).await;
}

impl Connection {
    fn new(service: &Arc<Service>, counts: &Arc<Connections>) -> Self {
        counts.accepted.fetch_add(1, Ordering::Relaxed);
        counts.open.fetch_add(1, Ordering::Relaxed);
        let activity = Arc::new(Activity {
            born: Instant::now(),
            idle_since: AtomicU64::new(BUSY),
        });
        Self {
            service: Arc::clone(service),
            activity,
            counts: Arc::clone(counts),
        }
    }

    async fn run(self, stream: TcpStream, mut orders: watch::Receiver<Orders>) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "an accepted connection is gone already");
        }
        let (socket, fuse) = Socket::new(stream);
        let handler = service_fn(|request| self.answer(request, &fuse));
        let mut http = pin!(http1::Builder::new().serve_connection(TokioIo::new(socket), handler));
        let mut expired = pin!(
            self.activity
                .expired(self.service.context.config.keep_alive)
        );
        let drains = orders.borrow().drains;
        loop {
            tokio::select! {
                ended = http.as_mut() => {
                    if let Err(error) = ended {
                        tracing::trace!(%error, "a connection to the simulated engine ended early");
                    }
                    return;
                }
                () = expired.as_mut() => return,
                changed = orders.changed() => {
                    let Orders { drains: now, killed, .. } = *orders.borrow_and_update();
                    if killed || changed.is_err() {
                        fuse.burn();
                        return;
                    }
                    if now != drains {
                        http.as_mut().graceful_shutdown();
                    }
                }
            }
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        fuse: &Arc<Fuse>,
    ) -> Result<Response<Guarded>, Broken> {
        let busy = Busy::new(&self.activity);
        let (parts, body) = request.into_parts();
        let body = if body.is_end_stream() {
            Ok(Bytes::new())
        } else {
            self.read(body).await
        };
        let response = match body {
            Ok(body) => {
                let recorded = RecordedRequest {
                    method: parts.method,
                    uri: parts.uri,
                    headers: parts.headers,
                    body,
                };
                self.service.answer(recorded, fuse).await?
            }
            Err(error) => {
                tracing::debug!(%error, "a request body could not be read whole");
                detail(StatusCode::PAYLOAD_TOO_LARGE, "Request Entity Too Large")
            }
        };
        Ok(response.map(|body| Guarded { body, _busy: busy }))
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, Box<dyn Error + Send + Sync>> {
        Ok(Limited::new(body, self.service.context.config.max_body)
            .collect()
            .await?
            .to_bytes())
    }
}

/// A request in progress, from its head to the last byte of its answer.
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.idle_since.store(BUSY, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.born.elapsed().as_millis()).unwrap_or(BUSY - 1);
        self.0.idle_since.store(now, Ordering::Relaxed);
    }
}

/// An answer's body that keeps its connection busy.
struct Guarded {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Guarded {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.body {
            Either::Left(whole) => Pin::new(whole).poll_frame(cx).map_err(Broken::from),
            Either::Right(stream) => Pin::new(stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Either::Left(whole) => whole.is_end_stream(),
            Either::Right(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Either::Left(whole) => whole.size_hint(),
            Either::Right(stream) => HttpBody::size_hint(stream),
        }
    }
}
