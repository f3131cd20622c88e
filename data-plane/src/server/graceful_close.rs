//! Closes a client's connection during a drain without losing a request.
//!
//! HTTP/1.1 has no frame that announces a close. A server that closes an idle connection can race
//! with a request that was just sent, and the client does not know whether it was processed. So a
//! draining proxy announces the close in the answer to the connection's next request
//! (`connection: close`), and closes without an announcement only after [`IDLE_GRACE`] of idleness.
//! HTTP/2 has GOAWAY, which is sent at once.
//!
//! Invariant: a request counts from its head to the last byte of its answer, or until either side
//! gives up.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hermes_runtime::shutdown::Drain;
use http::{HeaderValue, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{sync::Notify, time::sleep};

/// How long an idle connection stays open after the drain began, or after its last answer.
const IDLE_GRACE: Duration = Duration::from_secs(2);

/// The requests of one connection. A clone counts the same requests.
#[derive(Clone, Debug, Default)]
pub(super) struct ClientRequests(Arc<ClientRequestCount>);

/// Touched by the connection's own tasks only, so that counting costs no shared cache line.
#[derive(Debug, Default)]
struct ClientRequestCount {
    open: AtomicUsize,
    /// HTTP/2.
    multiplexed: AtomicBool,
    /// Set while [`ClientRequests::may_close`] waits: only then a change of `open` is notified.
    closing: AtomicBool,
    changed: Notify,
}

/// One open request of a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct OpenClientRequest {
    count: Arc<ClientRequestCount>,
    persistent: bool,
}

/// The body of an answer, which keeps its request open.
#[derive(Debug)]
pub(super) struct CountedBody<B> {
    body: B,
    _open: OpenClientRequest,
}

// === impl ClientRequests ===

impl ClientRequests {
    /// Counts a request whose head has arrived.
    pub(super) fn begin(&self, request: &Request<Incoming>) -> OpenClientRequest {
        let persistent = request.version() < Version::HTTP_2;
        if !persistent {
            self.0.multiplexed.store(true, Ordering::Relaxed);
        }
        self.0.open.fetch_add(1, Ordering::SeqCst);
        self.0.notify();
        OpenClientRequest {
            count: Arc::clone(&self.0),
            persistent,
        }
    }

    /// Resolves when the connection can be closed without losing a request, once its proxy drains.
    pub(super) async fn may_close(self, drain: Drain) {
        drain.draining().await;
        let count = &*self.0;
        count.closing.store(true, Ordering::SeqCst);
        while !count.multiplexed.load(Ordering::Relaxed) {
            if count.open.load(Ordering::SeqCst) > 0 {
                count.changed.notified().await;
                continue;
            }
            tokio::select! {
                () = sleep(IDLE_GRACE) => return,
                () = count.changed.notified() => {}
            }
        }
    }
}

// === impl ClientRequestCount ===

impl ClientRequestCount {
    /// A notification that comes before the wait is kept for it.
    fn notify(&self) {
        if self.closing.load(Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }
}

// === impl OpenClientRequest ===

impl OpenClientRequest {
    /// The answer, announced as the connection's last one if the proxy drains.
    pub(super) fn answer<B>(
        self,
        mut response: Response<B>,
        drain: &Drain,
    ) -> Response<CountedBody<B>> {
        if self.persistent && drain.is_draining() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response.map(|body| CountedBody { body, _open: self })
    }
}

impl Drop for OpenClientRequest {
    fn drop(&mut self) {
        self.count.open.fetch_sub(1, Ordering::SeqCst);
        self.count.notify();
    }
}

// === impl CountedBody ===

impl<B: Body + Unpin> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
