//! The calls of gateways: external processing, one stream for each request, and health checks.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use hermes_proto::{
    MAX_MESSAGE_BYTES,
    ext_proc::{
        ProcessingRequest,
        external_processor_server::{ExternalProcessor, ExternalProcessorServer},
    },
    health::health_server::HealthServer,
};
use hermes_runtime::readiness::Readiness;
use http_body::Body;
use tonic::{
    Request, Response, Status, Streaming,
    codegen::{Service, StdError},
};

use super::{
    door::PickerDoor,
    exchange_stream::ExchangeStream,
    health::DoorHealth,
    outbox::{Outbox, OutboxStream},
};
use crate::view::pickers::PickerAuthority;

/// Answers the calls of gateways. Clones share everything.
#[derive(Clone)]
pub(crate) struct ExtProcService {
    picker: ExternalProcessorServer<PickerCalls>,
    health: HealthServer<DoorHealth>,
}

struct PickerCalls(Arc<PickerDoor>);

/// The path of every health check.
const HEALTH: &str = "/grpc.health.v1.Health/";

impl ExtProcService {
    /// `readiness` is that of the process.
    pub(crate) fn new(door: PickerDoor, readiness: Readiness) -> Self {
        // A gateway that buffers sends a body in one message.
        let picker = ExternalProcessorServer::new(PickerCalls(Arc::new(door)))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Self {
            picker,
            health: HealthServer::new(DoorHealth(readiness)),
        }
    }

    /// Answers one call over a connection from this gateway.
    pub(crate) async fn call<B>(
        mut self,
        mut request: http::Request<B>,
        gateway: SocketAddr,
    ) -> http::Response<tonic::body::Body>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError> + Send + 'static,
    {
        let authority = request.uri().authority();
        let picker = authority.and_then(|authority| PickerAuthority::parse(authority.as_str()));
        let extensions = request.extensions_mut();
        extensions.insert(gateway);
        if let Some(picker) = picker {
            extensions.insert(picker);
        }
        let answer = if request.uri().path().starts_with(HEALTH) {
            self.health.call(request).await
        } else {
            self.picker.call(request).await
        };
        answer.unwrap_or_else(|never| match never {})
    }
}

#[tonic::async_trait]
impl ExternalProcessor for PickerCalls {
    type ProcessStream = OutboxStream;

    async fn process(
        &self,
        mut request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<OutboxStream>, Status> {
        let gateway = request.extensions().get().copied();
        let picker = request.extensions_mut().remove();
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let outbox = Outbox::default();
        let stream = ExchangeStream {
            door: Arc::clone(&self.0),
            inbound: request.into_inner(),
            outbox: outbox.clone(),
            gateway: gateway.unwrap_or(unknown),
            picker,
        };
        Ok(Response::new(outbox.stream(stream.run())))
    }
}
