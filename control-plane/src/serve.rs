//! The gRPC calls of proxies.
//!
//! | call | file | answers |
//! |---|---|---|
//! | `Sync` | [`sync`] | the cluster as it changes, and takes reports |
//! | `Score` | [`score`] | where a request should go, booked |
//! | `Explain` | [`explain`] | the same with every number, and nothing booked |
//! | `Certificates` | [`certificates`] | the certificates of listeners, with their keys |
//!
//! All streams end when the replica drains, so that they do not hold the server open: proxies
//! reopen them at another replica. HTTP/2 pings detect a vanished peer within 15 s.

mod certificates;
mod entry;
mod explain;
mod proxies;
mod score;
mod sync;
mod trace;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use hermes_core::snapshot::Snapshot;
use hermes_proto::{
    MAX_MESSAGE_BYTES,
    v1::{
        CertificatesRequest, CertificatesUpdate, Explanation, FromControlPlane, FromDataPlane,
        ScoreRequest, ScoreRequests, ScoreResponses,
        router_server::{Router, RouterServer},
    },
};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming, transport::Server};

pub(crate) use self::{
    certificates::CertificateSource, entry::GrpcListener, proxies::ConnectedProxies,
};
use self::{score::ScoreCalls, sync::Subscriber};
use crate::{
    metrics::ControlPlaneMetrics, pools::PoolDirectory, snapshot_encoder::SnapshotEncoder,
};

/// How often an idle peer is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// How long it may take to answer; with the interval, 15 s until a vanished peer is noticed.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP/2 windows in bytes: a burst of score requests must not wait for a window update.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Everything that the calls need. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct GrpcState {
    /// Choices and bookings.
    pub(crate) pools: Arc<PoolDirectory>,
    /// The newest snapshot.
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The connected proxies.
    pub(crate) proxies: ConnectedProxies,
    /// What subscribers get of snapshots.
    pub(crate) encoder: Arc<SnapshotEncoder>,
    /// What proxies get of certificates.
    pub(crate) certificates: CertificateSource,
    /// Counters.
    pub(crate) metrics: ControlPlaneMetrics,
    /// Resolves when streams have to end.
    pub(crate) closing: CancellationToken,
    /// Owns the subscribers' tasks.
    pub(crate) subscribers: TaskTracker,
}

/// Serves until `state.closing`, then until the last connection has ended.
///
/// # Errors
/// When the listener fails for good.
pub(crate) async fn serve(
    entry: GrpcListener,
    state: GrpcState,
) -> Result<(), tonic::transport::Error> {
    let closing = state.closing.clone().cancelled_owned();
    let handshakes = state.metrics.streams.handshakes.clone();
    let service = RouterServer::new(state)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = Server::builder()
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    match entry.tls {
        None => {
            server
                .serve_with_incoming_shutdown(service, entry::plain(entry.listener), closing)
                .await
        }
        Some(tls) => {
            let incoming = entry::secured(entry::plain(entry.listener), tls, handshakes);
            server
                .serve_with_incoming_shutdown(service, incoming, closing)
                .await
        }
    }
}

#[tonic::async_trait]
impl Router for GrpcState {
    type SyncStream = ReceiverStream<Result<FromControlPlane, Status>>;
    type CertificatesStream = ReceiverStream<Result<CertificatesUpdate, Status>>;
    type ScoreStream = Pin<Box<dyn Stream<Item = Result<ScoreResponses, Status>> + Send>>;

    async fn sync(
        &self,
        request: Request<Streaming<FromDataPlane>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        Ok(Response::new(Subscriber::open(
            self.clone(),
            request.into_inner(),
        )))
    }

    async fn score(
        &self,
        request: Request<Streaming<ScoreRequests>>,
    ) -> Result<Response<Self::ScoreStream>, Status> {
        Ok(Response::new(Box::pin(ScoreCalls::open(
            self,
            request.into_inner(),
        ))))
    }

    async fn explain(
        &self,
        request: Request<ScoreRequest>,
    ) -> Result<Response<Explanation>, Status> {
        explain::explain(&self.pools, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn certificates(
        &self,
        request: Request<CertificatesRequest>,
    ) -> Result<Response<Self::CertificatesStream>, Status> {
        certificates::open(self, request.into_inner()).map(Response::new)
    }
}
