//! One HTTP/1.1 connection to an endpoint, driven by the task that uses it.
//!
//! hyper splits a connection into a handle and a driver, the future that does the I/O. Usually the
//! driver is spawned, and every chunk of an answer then wakes one task to wake another. Here the
//! pair stays together: while a request waits for the head of its answer, and while the body is
//! read, the request's own task polls the driver (half the cost of a streamed answer).
//!
//! Consequences:
//! * Nothing polls an idle pair, so its closing is noticed at check-out.
//! * Dropping the pair closes the socket, which is how a request is cancelled.
//! * Only the driver completes the handle's futures, and it is polled right before them. They are
//!   polled with a no-op waker: with the task's own, each frame would wake the task that just read
//!   it. The driver has a [waker of its own](DriverWaker) for the same reason.

mod driver_waker;

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use self::driver_waker::DriverWaker;
use super::{
    connect_error::EndpointConnectError, dial::EndpointDialer, early_answer::EarlyAnswerStream,
    multiplexed::StreamSlot, secure::TlsSession, stream::EndpointStream,
};
use crate::request::leg_body::LegBody;

type Driver = http1::Connection<TokioIo<EarlyAnswerStream<EndpointStream>>, LegBody>;

/// A connection without a request on it. It is passed from hand to hand, and into the futures of
/// requests: as a pointer, because hyper's half of it is some hundred bytes.
pub(crate) struct Connection(Box<DrivenConnection>);

/// The pair of hyper's halves.
struct DrivenConnection {
    sender: http1::SendRequest<LegBody>,
    driver: Driver,
    waker: DriverWaker,
    /// How it was secured, if it was.
    tls: Option<TlsSession>,
    idle_since: Instant,
    /// A request was answered on it before, so the endpoint can close it at any moment.
    reused: bool,
}

/// Why no head came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// Nothing was sent.
    #[error("{0}")]
    Connect(#[from] EndpointConnectError),
    /// Nothing of this request was sent.
    #[error("the connection was closed before the request was written: {error}")]
    NotWritten {
        error: hyper::Error,
        request: Box<Request<LegBody>>,
    },
    /// The endpoint has not begun with the request.
    #[error("the endpoint did not take the request: {error}")]
    Unprocessed { error: hyper::Error },
    /// The endpoint may have seen the request.
    #[error("the connection broke before the answer's head: {error}")]
    MaybeSeen { error: hyper::Error, reused: bool },
}

/// The body of an endpoint's answer, with the connection that polling it drives.
pub(crate) struct UpstreamBody {
    incoming: Incoming,
    connection: Option<Connection>,
    /// Of an answer over HTTP/2, whose connection has a task of its own.
    slot: Option<StreamSlot<LegBody>>,
}

// === Connection ===

impl Connection {
    /// Opens a connection within `limit`, which covers the name, the address and the handshake.
    pub(super) async fn open(
        dialer: &EndpointDialer,
        limit: Duration,
    ) -> Result<Self, EndpointConnectError> {
        let (stream, tls) = dialer.dial(limit).await?;
        let (sender, driver) = http1::Builder::new()
            .handshake(TokioIo::new(EarlyAnswerStream::new(stream)))
            .await
            .map_err(EndpointConnectError::Handshake)?;
        Ok(Self(Box::new(DrivenConnection {
            sender,
            driver,
            waker: DriverWaker::new(),
            tls,
            idle_since: Instant::now(),
            reused: false,
        })))
    }

    /// Sends a request and waits for the head of its answer. The caller sets the deadline.
    pub(crate) async fn send(
        mut self,
        request: Request<LegBody>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let DrivenConnection {
            sender,
            driver,
            waker,
            reused,
            ..
        } = &mut *self.0;
        let reused = *reused;
        let mut head = std::pin::pin!(sender.try_send_request(request));
        let mut driver_done = false;
        let result = std::future::poll_fn(|cx| {
            waker.poll(cx, |cx| {
                if !driver_done {
                    // Its result is not lost: hyper hands an error to the future of the head too.
                    driver_done = Pin::new(&mut *driver).poll(cx).is_ready();
                }
                head.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            })
        })
        .await;
        match result {
            Ok(response) => {
                let (parts, incoming) = response.into_parts();
                let connection = (!driver_done).then_some(self);
                Ok(Response::from_parts(
                    parts,
                    UpstreamBody {
                        incoming,
                        connection,
                        slot: None,
                    },
                ))
            }
            // hyper returns a request of which it has written nothing.
            Err(mut error) => Err(match error.take_message() {
                Some(request) => SendError::NotWritten {
                    error: error.into_error(),
                    request: Box::new(request),
                },
                None => SendError::MaybeSeen {
                    error: error.into_error(),
                    reused,
                },
            }),
        }
    }

    /// Whether a request may be sent: open, and not idle for so long that the endpoint may be
    /// closing it.
    pub(crate) fn is_usable(&mut self, limit: Duration) -> bool {
        if self.idle_for(Instant::now()) >= limit {
            return false;
        }
        // It was not polled while it was idle: one poll notices that the endpoint closed it.
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.0.driver).poll(&mut cx).is_pending() && self.0.sender.is_ready()
    }

    /// How it was secured; `None` if it is plain.
    pub(super) fn tls(&self) -> Option<&TlsSession> {
        self.0.tls.as_ref()
    }

    pub(crate) fn idle_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.0.idle_since)
    }

    /// Marks the beginning of an idle time.
    pub(crate) fn rest(&mut self) {
        self.0.idle_since = Instant::now();
        self.0.reused = true;
    }
}

// === UpstreamBody ===

impl UpstreamBody {
    /// Of an answer over a connection that is shared.
    pub(super) const fn shared(incoming: Incoming, slot: StreamSlot<LegBody>) -> Self {
        Self {
            incoming,
            connection: None,
            slot: Some(slot),
        }
    }

    /// The connection, once the whole body was read and if the endpoint keeps it open.
    pub(crate) fn into_connection(mut self) -> Option<Connection> {
        let Connection(mut pair) = self.connection.take()?;
        let mut cx = Context::from_waker(Waker::noop());
        let open = Pin::new(&mut pair.driver).poll(&mut cx).is_pending();
        (open && pair.sender.is_ready()).then_some(Connection(pair))
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self {
            incoming,
            connection,
            slot,
        } = &mut *self;
        let mut noop = Context::from_waker(Waker::noop());
        let Some(Connection(pair)) = connection else {
            if slot.is_some() {
                return Pin::new(incoming).poll_frame(cx);
            }
            return Pin::new(incoming).poll_frame(&mut noop);
        };
        let DrivenConnection { driver, waker, .. } = &mut **pair;
        let mut has_ended = false;
        let polled = waker.poll(cx, |cx| {
            let ready = Pin::new(&mut *incoming).poll_frame(&mut noop);
            if ready.is_ready() || has_ended {
                return ready;
            }
            has_ended = Pin::new(&mut *driver).poll(cx).is_ready();
            Pin::new(&mut *incoming).poll_frame(&mut noop)
        });
        if has_ended {
            // The body still returns what it read, or why it broke.
            *connection = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
mod tests;
