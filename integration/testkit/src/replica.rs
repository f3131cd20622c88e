//! A control-plane replica that is scripted by a test.
//!
//! It sends proxies snapshots, collects their questions, reports and routing histories, and answers
//! in the order and at the time that the test decides. So a real proxy meets what a real replica
//! does only under load, or never.

mod certificates;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

pub use self::certificates::CertificateSender;
use self::certificates::SentStates;
use futures::{Stream, StreamExt, stream};
use hermes_core::{certificate::CertificateStates, load::Load, snapshot::Snapshot};
use hermes_proto::{
    MAX_MESSAGE_BYTES, Message,
    convert::{ReplayedHistory, snapshot_to_wire},
    v1::{
        Candidate, CertificatesRequest, CertificatesUpdate, EndpointLoad, Explanation,
        FromControlPlane, FromDataPlane, LoadInterest, LoadUpdate, Queued, Rejected, Report,
        ScoreRequest, ScoreRequests, ScoreResponse, ScoreResponses, Selected,
        from_control_plane::Message as Down, from_data_plane::Message as Up, rejected::Reason,
        router_server::Router, router_server::RouterServer, score_response::Answer,
    },
};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{broadcast, mpsc, watch},
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Limit for each wait of the test.
const PATIENCE: Duration = Duration::from_secs(10);

/// Capacity for messages of each kind that the test has not taken. More are dropped.
const UNREAD: usize = 4_096;

/// A replica that runs on a port of the loopback until it is dropped.
#[derive(Debug)]
pub struct Replica {
    /// Where proxies connect.
    pub grpc: SocketAddr,
    questions: mpsc::Receiver<ScoreRequest>,
    cancels: mpsc::Receiver<u64>,
    histories: mpsc::Receiver<ReplayedHistory>,
    reports: mpsc::Receiver<Report>,
    load_interests: mpsc::Receiver<bool>,
    state: ReplicaState,
    _serving: AbortOnDropHandle<()>,
}

/// What the service and the test share.
#[derive(Clone, Debug)]
struct ReplicaState {
    name: Arc<str>,
    /// The snapshot that proxies get; none connects while there is none.
    snapshot: Arc<Mutex<Option<Snapshot>>>,
    questions: mpsc::Sender<ScoreRequest>,
    cancels: mpsc::Sender<u64>,
    histories: mpsc::Sender<ReplayedHistory>,
    reports: mpsc::Sender<Report>,
    load_interests: mpsc::Sender<bool>,
    answers: broadcast::Sender<ScoreResponse>,
    /// Snapshots after the first one, encoded.
    published: broadcast::Sender<FromControlPlane>,
    certificates: watch::Sender<SentStates>,
    /// Ends streams.
    breaks: broadcast::Sender<Broken>,
    /// Sync streams that were opened.
    syncs: Arc<AtomicUsize>,
}

/// Which streams end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    All,
    Score,
}

// === Replica ===

impl Replica {
    /// A replica of this name that sends this snapshot.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(name: &str, snapshot: Snapshot) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let grpc = listener.local_addr()?;
        let (asked, questions) = mpsc::channel(UNREAD);
        let (cancelled, cancels) = mpsc::channel(UNREAD);
        let (history, histories) = mpsc::channel(UNREAD);
        let (reported, reports) = mpsc::channel(UNREAD);
        let (interested, load_interests) = mpsc::channel(UNREAD);
        let state = ReplicaState {
            name: name.into(),
            snapshot: Arc::new(Mutex::new(Some(snapshot))),
            questions: asked,
            cancels: cancelled,
            histories: history,
            reports: reported,
            load_interests: interested,
            answers: broadcast::Sender::new(UNREAD),
            published: broadcast::Sender::new(UNREAD),
            certificates: watch::Sender::new(None),
            breaks: broadcast::Sender::new(1),
            syncs: Arc::default(),
        };
        let service = RouterServer::new(state.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let serving = tokio::spawn(async move {
            // A failing listener shows as an error of the proxy that connects.
            let _ended = Server::builder()
                .serve_with_incoming(service, TcpListenerStream::new(listener))
                .await;
        });
        Ok(Self {
            grpc,
            questions,
            cancels,
            histories,
            reports,
            load_interests,
            state,
            _serving: AbortOnDropHandle::new(serving),
        })
    }

    /// The next question of any proxy.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn question(&mut self) -> ScoreRequest {
        next(&mut self.questions, "a question").await
    }

    /// The next question that a proxy cancels.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn cancel(&mut self) -> u64 {
        next(&mut self.cancels, "a cancel").await
    }

    /// The next routing history that a proxy replays.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn history(&mut self) -> ReplayedHistory {
        next(&mut self.histories, "a history").await
    }

    /// The next report of a proxy.
    ///
    /// # Panics
    /// When none comes in time.
    pub async fn report(&mut self) -> Report {
        next(&mut self.reports, "a report").await
    }

    /// Whether a proxy wants load rows of this replica, the next time that it sends that.
    ///
    /// # Panics
    /// When none does in time.
    pub async fn load_interest(&mut self) -> bool {
        next(&mut self.load_interests, "its interest in load rows").await
    }

    /// Whether no proxy has replayed a history that the test has not taken.
    #[must_use]
    pub fn has_no_history(&mut self) -> bool {
        self.histories.try_recv().is_err()
    }

    /// Answers that the request is queued, for `limit` at most.
    pub fn queue(&self, request: u64, limit: Duration) {
        let limit_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        self.answer(
            request,
            Answer::Queued(Queued {
                expected_ms: None,
                limit_ms,
                position: 0,
            }),
        );
    }

    /// Answers with this endpoint.
    pub fn choose(&self, request: u64, endpoint: u64) {
        let ranked = vec![Candidate {
            endpoint,
            ..Candidate::default()
        }];
        self.answer(
            request,
            Answer::Selected(Selected {
                ranked,
                ..Selected::default()
            }),
        );
    }

    /// Rejects the request.
    pub fn refuse(&self, request: u64, reason: Reason, retry_after: Duration) {
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        self.answer(
            request,
            Answer::Rejected(Rejected {
                reason: reason.into(),
                retry_after_ms,
            }),
        );
    }

    /// Sends any answer.
    pub fn answer(&self, request: u64, answer: Answer) {
        // Without a stream the answer has no receiver.
        let _receivers = self.state.answers.send(ScoreResponse {
            id: request,
            answer: Some(answer),
        });
    }

    /// Publishes the next snapshot on every open stream.
    pub fn publish(&self, snapshot: Snapshot) {
        let message = message_of(&snapshot, &self.state.name);
        *self.state.snapshot.lock() = Some(snapshot);
        // Without a stream it has no receiver.
        let _receivers = self.state.published.send(message);
    }

    /// From now on proxies are sent these certificates of listeners, and what changes. Before the
    /// first call the replica does not know that proxies may ask, as an older release.
    pub fn send_certificates(&self, states: CertificateStates) {
        self.certificate_sender().send(Arc::new(states));
    }

    /// As [`Replica::send_certificates`], from another task.
    #[must_use]
    pub fn certificate_sender(&self) -> CertificateSender {
        CertificateSender(self.state.certificates.clone())
    }

    /// Breaks every stream, and takes no new one until it comes back.
    pub fn leave(&self) {
        *self.state.snapshot.lock() = None;
        let _receivers = self.state.breaks.send(Broken::All);
    }

    /// Breaks every Score stream, and none of the Sync streams.
    pub fn break_scores(&self) {
        let _receivers = self.state.breaks.send(Broken::Score);
    }

    /// How many Sync streams proxies have opened so far.
    #[must_use]
    pub fn sync_streams(&self) -> usize {
        self.state.syncs.load(Ordering::Relaxed)
    }

    /// Comes back: as it was, or with another epoch as one that has restarted.
    pub fn come_back(&self, snapshot: Snapshot) {
        *self.state.snapshot.lock() = Some(snapshot);
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _receivers = self.state.breaks.send(Broken::All);
    }
}

fn message_of(snapshot: &Snapshot, replica: &str) -> FromControlPlane {
    let encoded = snapshot_to_wire(snapshot, replica).encode_to_vec();
    FromControlPlane {
        message: Some(Down::Snapshot(encoded.into())),
    }
}

/// What is published, for one stream.
fn published_on(
    published: broadcast::Receiver<FromControlPlane>,
) -> impl Stream<Item = FromControlPlane> {
    stream::unfold(published, |mut published| async {
        let message = published.recv().await.ok()?;
        Some((message, published))
    })
}

async fn next<T>(messages: &mut mpsc::Receiver<T>, what: &str) -> T {
    let Ok(Some(message)) = timeout(PATIENCE, messages.recv()).await else {
        panic!("no proxy sent {what} in time")
    };
    message
}

// === ReplicaState ===

/// Messages of one kind.
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ReplicaState {
    fn receive(&self, message: FromDataPlane) {
        match message.message {
            Some(Up::History(history)) => {
                let history = ReplayedHistory::try_from(history)
                    .expect("a proxy sends a history that can be read");
                let _full = self.histories.try_send(history);
            }
            Some(Up::Reports(reports)) => reports.reports.into_iter().for_each(|report| {
                let _full = self.reports.try_send(report);
            }),
            Some(Up::LoadInterest(LoadInterest { wanted })) => {
                let _full = self.load_interests.try_send(wanted);
            }
            Some(Up::Hello(_) | Up::Ack(_) | Up::Reject(_) | Up::Open(_)) | None => {}
        }
    }

    fn receive_questions(&self, asked: ScoreRequests) {
        for question in asked.requests {
            let _full = self.questions.try_send(question);
        }
        for cancel in asked.cancels {
            let _full = self.cancels.try_send(cancel);
        }
    }

    /// `out`, while `inbound` is received, until the streams are broken.
    fn answering<I, O>(
        &self,
        inbound: Streaming<I>,
        out: impl Stream<Item = O> + Send + 'static,
        receive: impl Fn(&Self, I) + Send + 'static,
        ends_with: &'static [Broken],
    ) -> Messages<O>
    where
        I: Send + 'static,
        O: Send + 'static,
    {
        let state = self.clone();
        let received = inbound.filter_map(move |message| {
            message
                .into_iter()
                .for_each(|message| receive(&state, message));
            std::future::ready(None)
        });
        let broken = Box::pin(self.broken(ends_with));
        Box::pin(stream::select(received, out.map(Ok)).take_until(broken))
    }

    /// Resolves when streams of this kind end.
    fn broken(&self, ends_with: &'static [Broken]) -> impl Future<Output = ()> + Send + 'static {
        let mut breaks = self.breaks.subscribe();
        async move {
            while let Ok(broken) = breaks.recv().await {
                if ends_with.contains(&broken) {
                    return;
                }
            }
        }
    }
}

#[tonic::async_trait]
impl Router for ReplicaState {
    type CertificatesStream = Messages<CertificatesUpdate>;
    type SyncStream = Messages<FromControlPlane>;
    type ScoreStream = Messages<ScoreResponses>;

    async fn sync(
        &self,
        request: Request<Streaming<FromDataPlane>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        // What is published from now on follows the snapshot that is the newest now.
        let published = self.published.subscribe();
        let snapshot = self
            .snapshot
            .lock()
            .clone()
            .ok_or_else(|| Status::unavailable("the replica is stopped"))?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        // As from a real replica, the load of every endpoint follows: all are idle.
        let endpoints = snapshot.pools.iter().flat_map(|pool| &pool.endpoints);
        let loads = endpoints
            .map(|endpoint| EndpointLoad::row(endpoint.id, &Load::default(), 0, 0))
            .collect();
        let loads = FromControlPlane {
            message: Some(Down::Load(LoadUpdate { loads }.encode_to_vec().into())),
        };
        let first = [message_of(&snapshot, &self.name), loads];
        let out = stream::iter(first).chain(published_on(published));
        Ok(Response::new(self.answering(
            request.into_inner(),
            out,
            Self::receive,
            &[Broken::All],
        )))
    }

    async fn score(
        &self,
        request: Request<Streaming<ScoreRequests>>,
    ) -> Result<Response<Self::ScoreStream>, Status> {
        let out = stream::unfold(self.answers.subscribe(), |mut answers| async {
            let response = answers.recv().await.ok()?;
            Some((
                ScoreResponses {
                    responses: vec![response],
                },
                answers,
            ))
        });
        Ok(Response::new(self.answering(
            request.into_inner(),
            out,
            Self::receive_questions,
            &[Broken::All, Broken::Score],
        )))
    }

    async fn explain(
        &self,
        _request: Request<ScoreRequest>,
    ) -> Result<Response<Explanation>, Status> {
        Err(Status::unimplemented("a scripted replica explains nothing"))
    }

    async fn certificates(
        &self,
        _request: Request<CertificatesRequest>,
    ) -> Result<Response<Self::CertificatesStream>, Status> {
        if self.snapshot.lock().is_none() {
            return Err(Status::unavailable("the replica is stopped"));
        }
        if self.certificates.borrow().is_none() {
            return Err(Status::unimplemented("this release sends no certificates"));
        }
        let updates = certificates::updates(self.certificates.subscribe()).map(Ok);
        let broken = Box::pin(self.broken(&[Broken::All]));
        Ok(Response::new(Box::pin(updates.take_until(broken))))
    }
}
