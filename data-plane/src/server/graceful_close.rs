//! How a connection of a client ends when its proxy drains: without a request getting lost on the way.
//!
//! HTTP/1.1 has no word for "I am about to close". A server that closes an idle connection may meet a request that was
//! just sent, and whoever sent it has to guess whether it was heard. So a connection says so in the answer to its next
//! request (`connection: close`), and is closed unasked only after it has been idle for [`FAREWELL`]. HTTP/2 has such a
//! word, and is told at once.
//!
//! Invariant: a request counts from its head to the last byte of its answer, or until either side gives up.

use std::{
    pin::Pin,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
    time::Duration,
};

use hermes_runtime::shutdown::Drain;
use http::{HeaderValue, Request, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{sync::watch, time::sleep};

/// How long an idle connection stays open after the drain began, or after its last answer.
const FAREWELL: Duration = Duration::from_secs(2);

/// The requests of one connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchanges {
    open: Arc<watch::Sender<usize>>,
    multiplexed: Arc<AtomicBool>,
}

/// One request of a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Exchange {
    open: Arc<watch::Sender<usize>>,
    persistent: bool,
}

/// The body of an answer, which holds its exchange open.
#[derive(Debug)]
pub(super) struct Held<B> {
    body: B,
    _exchange: Exchange,
}

// === impl Exchanges ===

impl Exchanges {
    /// Counts a request that has come.
    pub(super) fn begin(&self, request: &Request<Incoming>) -> Exchange {
        let persistent = request.version() < Version::HTTP_2;
        if !persistent {
            self.multiplexed.store(true, Ordering::Relaxed);
        }
        self.open.send_modify(|open| *open += 1);
        Exchange {
            open: Arc::clone(&self.open),
            persistent,
        }
    }

    /// Resolves when the connection may be closed without doing harm, once its proxy drains.
    pub(super) async fn may_close(&self, drain: &Drain) {
        drain.draining().await;
        let mut open = self.open.subscribe();
        while !self.multiplexed.load(Ordering::Relaxed) {
            // The sender lives as long as this connection.
            if open.wait_for(|open| *open == 0).await.is_err() {
                return;
            }
            tokio::select! {
                () = sleep(FAREWELL) => return,
                _ = open.changed() => {}
            }
        }
    }
}

// === impl Exchange ===

impl Exchange {
    /// The answer, told to be the connection's last one if the proxy drains.
    pub(super) fn answer<B>(self, mut response: Response<B>, drain: &Drain) -> Response<Held<B>> {
        if self.persistent && drain.is_draining() {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.map(|body| Held {
            body,
            _exchange: self,
        })
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.open.send_modify(|open| *open -= 1);
    }
}

// === impl Held ===

impl<B: Body + Unpin> Body for Held<B> {
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
