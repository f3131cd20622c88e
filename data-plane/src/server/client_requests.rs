//! The requests of one client's connection, and what the connection does between them.
//!
//! Invariants: a request counts from its head to the last byte of its answer, or until either side
//! gives up. Everything here is touched by tasks of one thread only, so that counting costs no
//! shared cache line.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Version;
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::Notify, time::Instant};

/// What an HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The rest of a body, in bytes, that hyper skips, if it has read it, to go on with the connection.
const SKIPPED: u64 = 4 << 10;

/// The requests of one connection. A clone counts the same requests.
#[derive(Clone, Debug)]
pub(super) struct ClientRequests(Arc<ConnectionState>);

#[derive(Debug)]
struct ConnectionState {
    opened: Instant,
    open: AtomicUsize,
    /// When the present time between two requests began, or the head in progress; milliseconds
    /// since `opened`.
    since: AtomicU64,
    /// Bytes of a head have arrived. A connection begins so: its client connected to send one.
    head_begun: AtomicBool,
    /// Bytes of the preface of HTTP/2 that have arrived.
    preface: AtomicUsize,
    /// Bytes of the last request's body that were not read, as far as its head says.
    unread: AtomicU64,
    /// The socket of a connection that ended so, for its lingering close.
    leftover: Mutex<Option<TcpStream>>,
    /// Set while a close waits for the requests: only then a change of `open` is notified.
    closing: AtomicBool,
    changed: Notify,
}

/// One open request of a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct OpenClientRequest {
    state: Arc<ConnectionState>,
    persistent: bool,
}

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionPhase {
    /// A request is open.
    Serving,
    /// The head of a request is awaited in full, since then.
    Head(Instant),
    /// No request is open, since then.
    Idle(Instant),
}

// === ClientRequests ===

impl ClientRequests {
    /// Of a connection that is accepted now.
    pub(super) fn new() -> Self {
        Self(Arc::new(ConnectionState {
            opened: Instant::now(),
            open: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            head_begun: AtomicBool::new(true),
            preface: AtomicUsize::new(0),
            unread: AtomicU64::new(0),
            leftover: Mutex::default(),
            closing: AtomicBool::new(false),
            changed: Notify::new(),
        }))
    }

    /// Notes bytes that the client sent.
    pub(super) fn received(&self, bytes: &[u8]) {
        let state = &*self.0;
        let seen = state.preface.load(Relaxed);
        if seen < PREFACE.len() {
            state.receive_preface(seen, bytes);
        } else if state.open.load(Relaxed) == 0 && !state.head_begun.swap(true, Relaxed) {
            state.since_now();
        }
    }

    /// Counts a request whose head has arrived.
    pub(super) fn begin(&self, version: Version) -> OpenClientRequest {
        let state = Arc::clone(&self.0);
        state.open.fetch_add(1, Relaxed);
        state.unread.store(0, Relaxed);
        state.notify();
        OpenClientRequest {
            state,
            persistent: version < Version::HTTP_2,
        }
    }

    pub(super) fn phase(&self) -> ConnectionPhase {
        let state = &*self.0;
        if state.open.load(Relaxed) > 0 {
            return ConnectionPhase::Serving;
        }
        let since = state.opened + Duration::from_millis(state.since.load(Relaxed));
        // Of HTTP/2, the bytes between two requests are frames of the connection itself.
        if state.head_begun.load(Relaxed) && !self.is_multiplexed() {
            ConnectionPhase::Head(since)
        } else {
            ConnectionPhase::Idle(since)
        }
    }

    /// Whether it is a connection of HTTP/2.
    pub(super) fn is_multiplexed(&self) -> bool {
        self.0.preface.load(Relaxed) == PREFACE.len()
    }

    /// The body of the request is dropped before its end; `bytes` are left, or an unknown number.
    pub(super) fn leave_unread(&self, bytes: Option<u64>) {
        self.0.unread.store(bytes.unwrap_or(u64::MAX), Relaxed);
    }

    /// The connection has ended; keeps the socket if its client may still be sending.
    pub(super) fn leave(&self, socket: TcpStream) {
        if self.0.unread.load(Relaxed) > 0 && !self.is_multiplexed() {
            *self.0.leftover.lock() = Some(socket);
        }
    }

    /// The socket of the connection that has ended, if its client may still be sending.
    pub(super) fn take_leftover(&self) -> Option<TcpStream> {
        self.0.leftover.lock().take()
    }

    /// From now on a change of the open requests is notified.
    pub(super) fn notify_changes(&self) {
        self.0.closing.store(true, Relaxed);
    }

    /// Resolves when the open requests have changed. A change that comes before the wait is kept
    /// for it.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

// === ConnectionState ===

/// In place of a count of the preface's bytes: the connection is one of HTTP/1.
const NO_PREFACE: usize = usize::MAX;

impl ConnectionState {
    /// Compares the first bytes with the preface, `seen` of which have arrived.
    fn receive_preface(&self, seen: usize, bytes: &[u8]) {
        let expected = &PREFACE[seen..];
        let compared = bytes.len().min(expected.len());
        let seen = if bytes[..compared] == expected[..compared] {
            seen + compared
        } else {
            NO_PREFACE
        };
        self.preface.store(seen, Relaxed);
        if seen == PREFACE.len() {
            self.since_now();
        }
    }

    fn since_now(&self) {
        let millis = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(millis, Relaxed);
    }

    fn notify(&self) {
        if self.closing.load(Relaxed) {
            self.changed.notify_one();
        }
    }
}

// === OpenClientRequest ===

impl OpenClientRequest {
    /// Whether the answer has to announce that the connection ends with it: the proxy drains, or
    /// too much of the request's body is unread.
    pub(super) fn is_last(&self, drains: bool) -> bool {
        let unread = self.state.unread.load(Relaxed);
        self.persistent && (drains || unread > SKIPPED)
    }
}

impl Drop for OpenClientRequest {
    fn drop(&mut self) {
        let state = &*self.state;
        if state.open.fetch_sub(1, Relaxed) == 1 {
            state.head_begun.store(false, Relaxed);
            state.since_now();
        }
        state.notify();
    }
}
