//! A fake OpenTelemetry collector: it takes traces over OTLP, as HTTP/protobuf and as gRPC on one
//! port, and keeps what came for its owner to look at.
//!
//! Memory is bounded: beyond [`MAX_EXPORTS`] exports it answers as an overloaded collector does and
//! keeps nothing more. It takes no compression, no JSON, and no signal but traces. It ends when
//! dropped.

mod span;
mod wire;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;

pub use self::span::{Kind, Span, Status, Value};

/// Exports that are kept. Each holds at most a batch, which is 512 spans by default.
pub const MAX_EXPORTS: usize = 1_024;

/// A running collector on an ephemeral port of the loopback.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    received: Arc<Received>,
    _accepting: AbortOnDropHandle<()>,
}

/// What came.
#[derive(Debug, Default)]
struct Received {
    exports: Mutex<Vec<Export>>,
    changed: Notify,
}

/// One export request.
#[derive(Debug)]
struct Export {
    /// The message as it was sent, without its frame.
    bytes: Bytes,
    spans: Vec<Span>,
}

// === Collector ===

impl Collector {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// When no port can be had.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let received = Arc::<Received>::default();
        let accepting = tokio::spawn(accept(listener, Arc::clone(&received)));
        Ok(Self {
            address,
            received,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    /// For `OTEL_EXPORTER_OTLP_ENDPOINT`, whatever the protocol.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans so far, in the order in which they came: children before their parents.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.received
            .exports
            .lock()
            .iter()
            .flat_map(|export| export.spans.iter().cloned())
            .collect()
    }

    /// The spans of one trace, by its id in hexadecimal.
    #[must_use]
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        self.spans()
            .into_iter()
            .filter(|span| span.trace_id == trace_id)
            .collect()
    }

    /// Waits until `enough` holds for the spans of a trace, and answers them; whatever came when
    /// `deadline` passes first.
    pub async fn trace_when(
        &self,
        trace_id: &str,
        deadline: Instant,
        enough: impl Fn(&[Span]) -> bool,
    ) -> Vec<Span> {
        loop {
            let changed = self.received.changed.notified();
            let spans = self.trace(trace_id);
            if enough(&spans) || timeout_at(deadline, changed).await.is_err() {
                return spans;
            }
        }
    }

    /// Whether `text` is anywhere in the bytes that came.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        let exports = self.received.exports.lock();
        exports
            .iter()
            .any(|export| memchr::memmem::find(&export.bytes, text.as_bytes()).is_some())
    }
}

// === Received ===

impl Received {
    /// Keeps an export. `false` when there is no room.
    fn keep(&self, export: Export) -> bool {
        let mut exports = self.exports.lock();
        if exports.len() >= MAX_EXPORTS {
            return false;
        }
        exports.push(export);
        drop(exports);
        self.changed.notify_waiters();
        true
    }
}

// === Serving ===

async fn accept(listener: TcpListener, received: Arc<Received>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(stream, Arc::clone(&received)));
    }
}

async fn serve(stream: TcpStream, received: Arc<Received>) {
    let service = service_fn(move |request| wire::answer(request, Arc::clone(&received)));
    // An exporter that goes away is no failure of the collector.
    let _gone = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
