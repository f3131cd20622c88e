//! HTTP/2 connections to one server, each shared by many requests of one thread.
//!
//! ```text
//!   request ──▶ a connection with room for a stream ──▶ StreamSlot
//!                └─ none: one request at a time opens another one, the others wait for it
//! ```
//!
//! Unlike a connection over HTTP/1.1, which the task of its request polls, one that is shared needs
//! tasks of its own ([`connection_tasks`]). They end with the last slot after the connection was
//! retired, or with the owner of all.
//!
//! Invariants: a connection is used on the thread that opened it; it has at most [`MAX_STREAMS`]
//! requests of this proxy, and at most as many as its server allows; the window of the connection is
//! that of all its streams together, so that one whose reader is slow stops no other.

mod connection_tasks;

use std::{
    error::Error,
    future::{Future, poll_fn},
    io,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::Poll,
    time::Duration,
};

use http_body::Body;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    sync::Mutex as Turns,
    time::{Instant, timeout_at},
};

use self::connection_tasks::ConnectionTasks;
use super::{
    connect_error::EndpointConnectError, dial::EndpointDialer, secure::TlsSession,
    stream::EndpointStream,
};
use crate::worker;

/// Requests that one connection carries at once; servers usually allow a hundred.
pub(crate) const MAX_STREAMS: u32 = 64;

/// Bytes of an answer that are read before its reader takes them.
const STREAM_WINDOW: u32 = 256 << 10;

/// Bytes of the head of an answer, as HTTP/2 counts them.
const MAX_HEAD: u32 = 64 << 10;

/// Streams that were reset and that the server may still write to.
const MAX_RESET: usize = 4 * MAX_STREAMS as usize;

/// Interval and timeout of pings while there are requests: a server that hangs with its host is
/// detected within their sum.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(8), Duration::from_secs(5));

/// A connection without requests is closed after this long.
const IDLE: Duration = Duration::from_secs(60);

/// See the module. `B` is the body of requests.
pub(crate) struct MultiplexedConnections<B> {
    /// By worker.
    shards: Box<[ConnectionShard<B>]>,
}

/// What takes the requests of one connection.
type ConnectionDriver<B> = http2::Connection<TokioIo<EndpointStream>, B, ConnectionTasks>;

/// The connections of one worker.
struct ConnectionShard<B> {
    open: Mutex<Vec<Arc<SharedConnection<B>>>>,
    /// The turn of the request that opens the next one.
    opening: Turns<()>,
}

/// One connection, and the tasks that move its bytes. They end when it is dropped.
struct SharedConnection<B> {
    sender: http2::SendRequest<B>,
    streams: AtomicU32,
    /// It gets no further request: the server closes it, or it broke.
    is_retired: AtomicBool,
    /// When the last request ended.
    idle_since: Mutex<Instant>,
    /// The most of them: its server may allow fewer than [`MAX_STREAMS`].
    room: Arc<AtomicU32>,
    tls: Option<TlsSession>,
    tasks: ConnectionTasks,
}

/// The place of one request on a connection, until it is dropped.
pub(crate) struct StreamSlot<B> {
    connection: Arc<SharedConnection<B>>,
    /// The connection was there before, so that the server may be closing it.
    pub(crate) is_reused: bool,
    /// It was opened for this request.
    pub(crate) is_opened: bool,
}

impl<B> MultiplexedConnections<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// None yet. `workers` is the number of threads that will use them.
    pub(crate) fn new(workers: NonZeroUsize) -> Self {
        let shard = |_| ConnectionShard {
            open: Mutex::default(),
            opening: Turns::new(()),
        };
        Self {
            shards: (0..workers.get()).map(shard).collect(),
        }
    }

    /// A place on a connection of this thread, which is opened within `limit` if there is none.
    ///
    /// # Errors
    /// Why none was opened.
    pub(crate) async fn slot(
        &self,
        dialer: &EndpointDialer,
        limit: Duration,
    ) -> Result<StreamSlot<B>, EndpointConnectError> {
        let shard = self.shard();
        if let Some(slot) = shard.reserve(dialer, true) {
            return Ok(slot);
        }
        let deadline = Instant::now() + limit;
        let late = |_| EndpointConnectError::Timeout(limit);
        let _turn = timeout_at(deadline, shard.opening.lock())
            .await
            .map_err(late)?;
        if let Some(slot) = shard.reserve(dialer, false) {
            return Ok(slot);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let connection = Arc::new(open(dialer, left).await?);
        shard.open.lock().push(Arc::clone(&connection));
        // Whatever became of it in this moment: the request finds out by itself.
        Ok(StreamSlot {
            connection,
            is_reused: false,
            is_opened: true,
        })
    }

    /// Closes those without a request, and the others with their last one.
    pub(crate) fn close(&self) {
        for shard in &self.shards {
            let closed = std::mem::take(&mut *shard.open.lock());
            drop(closed);
        }
    }

    /// Closes what had no request for too long; returns how many without a request are left.
    pub(crate) fn sweep(&self, now: Instant) -> usize {
        self.shards.iter().map(|shard| shard.sweep(now)).sum()
    }

    fn shard(&self) -> &ConnectionShard<B> {
        &self.shards[worker::index() % self.shards.len()]
    }
}

impl<B> ConnectionShard<B> {
    /// A place on the first connection that has room: of several, the last ones become idle.
    fn reserve(&self, dialer: &EndpointDialer, is_reused: bool) -> Option<StreamSlot<B>> {
        let mut open = self.open.lock();
        open.retain(|connection| {
            !connection.is_retired.load(Ordering::Relaxed)
                && !connection.sender.is_closed()
                && dialer.is_current(connection.tls.as_ref())
        });
        let has_room = |connection: &&Arc<SharedConnection<B>>| {
            let room = connection.room.load(Ordering::Relaxed);
            connection.streams.load(Ordering::Relaxed) < room
        };
        let connection = open.iter().find(has_room)?;
        // Under the lock, as every other one.
        connection.streams.fetch_add(1, Ordering::Relaxed);
        Some(StreamSlot {
            connection: Arc::clone(connection),
            is_reused,
            is_opened: false,
        })
    }

    fn sweep(&self, now: Instant) -> usize {
        let mut open = self.open.lock();
        let is_idle =
            |connection: &Arc<SharedConnection<B>>| connection.streams.load(Ordering::Relaxed) == 0;
        let mut closed = Vec::new();
        open.retain(|connection| {
            let since = now.saturating_duration_since(*connection.idle_since.lock());
            let is_kept = !is_idle(connection) || since < IDLE;
            if !is_kept {
                closed.push(Arc::clone(connection));
            }
            is_kept
        });
        let left = open.iter().filter(|connection| is_idle(connection)).count();
        // Closing a socket is a system call: not while others wait for the lock.
        drop(open);
        drop(closed);
        left
    }
}

impl<B> StreamSlot<B> {
    /// By which the request is sent.
    pub(crate) fn sender(&self) -> http2::SendRequest<B> {
        self.connection.sender.clone()
    }

    /// The connection gets no further request.
    pub(crate) fn retire(&self) {
        self.connection.is_retired.store(true, Ordering::Relaxed);
    }
}

impl<B> Drop for StreamSlot<B> {
    fn drop(&mut self) {
        let connection = &self.connection;
        *connection.idle_since.lock() = Instant::now();
        let before = connection.streams.fetch_sub(1, Ordering::Relaxed);
        if before == 1 && connection.is_retired.load(Ordering::Relaxed) {
            connection.tasks.end();
        }
    }
}

impl<B> Drop for SharedConnection<B> {
    fn drop(&mut self) {
        self.tasks.end();
    }
}

/// A connection with its first stream, whose server has said how many it allows: those that come
/// before would be refused, or wait unsent.
async fn open<B>(
    dialer: &EndpointDialer,
    limit: Duration,
) -> Result<SharedConnection<B>, EndpointConnectError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let deadline = Instant::now() + limit;
    let (stream, tls) = dialer.dial(limit).await?;
    let tasks = ConnectionTasks::default();
    let (sender, mut driver) = http2::Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        // None, until it has said so.
        .initial_max_send_streams(0)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * MAX_STREAMS)
        .max_header_list_size(MAX_HEAD)
        .max_concurrent_reset_streams(MAX_RESET)
        // Answers that cannot be read end their own streams only.
        .max_local_error_reset_streams(None)
        .keep_alive_interval(KEEP_ALIVE.0)
        .keep_alive_timeout(KEEP_ALIVE.1)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(EndpointConnectError::Handshake)?;
    let connection = SharedConnection {
        sender,
        streams: AtomicU32::new(1),
        room: Arc::default(),
        is_retired: AtomicBool::new(false),
        idle_since: Mutex::new(Instant::now()),
        tls,
        tasks,
    };
    let allowed = timeout_at(deadline, first_room(&mut driver, &connection.tasks)).await;
    let allowed = allowed.map_err(|_| EndpointConnectError::Timeout(limit))??;
    connection.room.store(allowed, Ordering::Relaxed);
    let seen = Arc::clone(&connection.room);
    connection.tasks.drive(async move {
        let ended = poll_fn(|cx| {
            let polled = Pin::new(&mut driver).poll(cx);
            seen.store(room(driver.current_max_send_streams()), Ordering::Relaxed);
            polled
        });
        if let Err(error) = ended.await {
            tracing::debug!(%error, "a connection over HTTP/2 broke");
        }
    });
    Ok(connection)
}

/// Waits for the settings of the server, which it sends first (RFC 9113, 3.4).
async fn first_room<B>(
    driver: &mut ConnectionDriver<B>,
    tasks: &ConnectionTasks,
) -> Result<u32, EndpointConnectError>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    poll_fn(|cx| {
        tasks.wake_at_progress(cx.waker());
        match Pin::new(&mut *driver).poll(cx) {
            Poll::Ready(Ok(())) => {
                let closed = io::Error::from(io::ErrorKind::UnexpectedEof);
                Poll::Ready(Err(closed.into()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(EndpointConnectError::Handshake(error))),
            Poll::Pending => match room(driver.current_max_send_streams()) {
                0 => Poll::Pending,
                room => Poll::Ready(Ok(room)),
            },
        }
    })
    .await
}

/// Requests that a connection carries if its server allows this many.
fn room(allowed: usize) -> u32 {
    u32::try_from(allowed).map_or(MAX_STREAMS, |allowed| allowed.min(MAX_STREAMS))
}
