//! The connections to one picker, and what happened to them.

use std::{
    future::Future,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use hermes_core::{address::ServerScheme, inference_pool::AskedPicker};
use hermes_proto::{
    MAX_MESSAGE_BYTES,
    ext_proc::{
        ProcessingRequest, ProcessingResponse, external_processor_client::ExternalProcessorClient,
    },
};
use http::{Request, Response, Uri};
use hyper::{body::Incoming, client::conn::http2};
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::Instant};
use tonic::{Status, Streaming, body::Body as GrpcBody};
use tower::Service;

use crate::{
    endpoint::{
        EndpointConnectError, EndpointDialer, MultiplexedConnections, PoolTls, StreamSlot,
        SystemResolver,
    },
    telemetry::metrics::AskResult,
    worker,
};

/// A picker, with connections of its own for each worker. Clones are made of its [`Arc`].
pub(crate) struct PickerClient {
    pub(crate) picker: AskedPicker,
    /// Scheme and authority of every call.
    origin: Uri,
    dialer: EndpointDialer,
    connections: MultiplexedConnections<GrpcBody>,
    /// The last question failed.
    has_failed: AtomicBool,
    /// By worker: streams whose answer was shown to its end, and which the picker has not ended.
    ending: Box<[Mutex<JoinSet<()>>]>,
}

/// Why a picker named no endpoint of the pool.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PickerFault {
    #[error("the picker is not reached: {0}")]
    Unreachable(#[from] EndpointConnectError),
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// It ended the stream, or did not keep to the protocol.
    #[error("the picker broke off: {0}")]
    Broken(String),
    /// What it named is no endpoint of the pool.
    #[error("the picker named no endpoint of the pool")]
    NoEndpoint,
}

impl PickerFault {
    /// The reason in metrics.
    pub(crate) const fn result(&self) -> AskResult {
        match self {
            Self::Unreachable(_) => AskResult::Unreachable,
            Self::Late(_) => AskResult::Late,
            Self::Broken(_) => AskResult::Broken,
            Self::NoEndpoint => AskResult::NoEndpoint,
        }
    }

    /// For a client, who learns nothing of what is behind the proxy.
    pub(crate) const fn for_clients(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "it is not reached",
            Self::Late(_) => "it did not answer in time",
            Self::Broken(_) => "it broke off",
            Self::NoEndpoint => "it named no endpoint of the pool",
        }
    }
}

/// A stream of one request, that is open.
pub(super) struct PickerStream {
    pub(super) inbound: Streaming<ProcessingResponse>,
    _slot: StreamSlot<GrpcBody>,
}

/// One connection, as gRPC uses it.
struct GrpcConnection(http2::SendRequest<GrpcBody>);

/// Streams that one worker leaves to be ended by the picker, at most; more are cut off.
const MAX_ENDING: usize = 1_024;

impl PickerClient {
    /// `None` if the picker has no address. `workers` is the number of threads that will ask.
    pub(crate) fn new(picker: &AskedPicker, workers: NonZeroUsize) -> Option<Self> {
        let address = picker.address()?;
        let tls = match address.scheme() {
            ServerScheme::Http => PoolTls::none(),
            ServerScheme::Https => PoolTls::unverified(),
        };
        Some(Self {
            picker: picker.clone(),
            origin: address.to_string().parse().ok()?,
            dialer: EndpointDialer::new(&address, Arc::new(SystemResolver), &tls),
            connections: MultiplexedConnections::new(workers),
            has_failed: AtomicBool::new(false),
            ending: (0..workers.get()).map(|_| Mutex::default()).collect(),
        })
    }

    /// Opens the stream of a request, and waits for the first message. `outbound` makes the messages
    /// of the request. A connection that was there may be closing: then another one is opened.
    pub(super) async fn open<S>(
        &self,
        connect: Duration,
        mut outbound: impl FnMut() -> S,
    ) -> Result<PickerStream, PickerFault>
    where
        S: Stream<Item = ProcessingRequest> + Send + 'static,
    {
        loop {
            let slot = self.connections.slot(&self.dialer, connect).await?;
            let connection = GrpcConnection(slot.sender());
            let mut client = ExternalProcessorClient::with_origin(connection, self.origin.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES);
            match client.process(outbound()).await {
                Ok(answer) => {
                    return Ok(PickerStream {
                        inbound: answer.into_inner(),
                        _slot: slot,
                    });
                }
                Err(status) => {
                    let was_reused = slot.is_reused && is_of_the_connection(&status);
                    if is_of_the_connection(&status) {
                        slot.retire();
                    }
                    if !was_reused {
                        return Err(PickerFault::Broken(status.message().to_owned()));
                    }
                }
            }
        }
    }

    /// Logs the first failure of several in a row, and the first success after them.
    pub(crate) fn note(&self, fault: Option<&PickerFault>) {
        let (picker, has_failed) = (&*self.picker.authority, fault.is_some());
        if self.has_failed.swap(has_failed, Ordering::Relaxed) == has_failed {
            return;
        }
        match fault {
            Some(fault) => tracing::warn!(picker, %fault, "the endpoint picker fails"),
            None => tracing::info!(picker, "the endpoint picker answers again"),
        }
    }

    /// Closes connections that were idle for too long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.connections.sweep(now);
    }

    /// Leaves a stream to be ended by the picker.
    pub(super) fn leave(&self, ending: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.ending[worker::index() % self.ending.len()].lock();
        while tasks.try_join_next().is_some() {}
        if tasks.len() < MAX_ENDING {
            tasks.spawn(ending);
        }
    }
}

/// Whether the call failed for its connection, and not by the picker's own answer.
fn is_of_the_connection(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

impl Service<Request<GrpcBody>> for GrpcConnection {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<GrpcBody>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
