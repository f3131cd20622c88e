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
use tokio::{runtime::Handle, task::JoinSet, time::Instant};
use tonic::{Status, Streaming, body::Body as GrpcBody};
use tower::Service;

use super::draining_stream::{DrainingStream, followed};
use crate::{
    endpoint::{
        EndpointConnectError, EndpointDialer, MultiplexedConnections, PoolTls, StreamFault,
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
    /// Without the picker's own words: nothing shows who wrote them, and they may quote a prompt.
    pub(super) fn of(status: &Status) -> Self {
        Self::Broken(format!("gRPC status {:?}", status.code()))
    }

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

/// A stream of one request, that is open. Dropped, nothing more is read of it, and it ends when the
/// picker has read the rest of it.
pub(super) struct PickerStream {
    pub(super) inbound: Streaming<ProcessingResponse>,
    pub(super) place: PickerPlace,
}

/// The place of a stream on a connection.
pub(super) struct PickerPlace {
    client: Arc<PickerClient>,
    /// Present until it is taken.
    draining: Option<DrainingStream>,
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
        self: &Arc<Self>,
        connect: Duration,
        mut outbound: impl FnMut() -> S,
    ) -> Result<PickerStream, PickerFault>
    where
        S: Stream<Item = ProcessingRequest> + Send + 'static,
    {
        loop {
            let slot = self.connections.slot(&self.dialer, connect).await?;
            let (connection, was_reused) = (GrpcConnection(slot.sender()), slot.is_reused);
            let (messages, sent) = followed(outbound());
            let mut place = PickerPlace {
                client: Arc::clone(self),
                draining: Some(DrainingStream::of(slot, sent)),
            };
            let mut client = ExternalProcessorClient::with_origin(connection, self.origin.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES);
            match client.process(messages).await {
                Ok(answer) => {
                    return Ok(PickerStream {
                        inbound: answer.into_inner(),
                        place,
                    });
                }
                Err(status) => {
                    let is_broken = is_of_the_connection(&status);
                    if is_broken && let Some(draining) = place.take() {
                        draining.retire();
                    }
                    if !(is_broken && was_reused) {
                        return Err(PickerFault::of(&status));
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
        // What is dropped by a runtime that ends starts nothing.
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let mut tasks = self.ending[worker::index() % self.ending.len()].lock();
        while tasks.try_join_next().is_some() {}
        if tasks.len() < MAX_ENDING {
            tasks.spawn_on(ending, &runtime);
        }
    }
}

impl PickerPlace {
    /// What is left to be sent, for a caller that waits for its end.
    pub(super) fn take(&mut self) -> Option<DrainingStream> {
        self.draining.take()
    }
}

impl Drop for PickerPlace {
    fn drop(&mut self) {
        if let Some(mut draining) = self.take()
            && !draining.is_sent()
        {
            self.client.leave(draining.drain());
        }
    }
}

/// Whether the call failed for its connection, and not by the picker's own answer or by a reset of
/// its stream.
fn is_of_the_connection(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return StreamFault::of(error) != StreamFault::Reset;
        }
        source = error.source();
    }
    false
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_picker_writes_of_its_failure_is_in_no_fault() {
        let status = Status::internal("the prompt was: secret");
        let fault = PickerFault::of(&status).to_string();
        assert_eq!(fault, "the picker broke off: gRPC status Internal");
    }
}
