//! A control-plane replica that does what its owner says, and nothing by itself.
//!
//! It teaches proxies one snapshot, collects what they ask and tell, and answers when and what its owner wants. What a
//! real replica does under load, or never, can so be said to a real proxy in a test.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use hermes_core::{load::Load, snapshot::Snapshot};
use hermes_proto::{
    MAX_MESSAGE_BYTES,
    convert::{Taught, snapshot_to_wire},
    v1::{
        Candidate, Chosen, EndpointLoad, Explanation, FromControlPlane, FromDataPlane, LoadUpdate,
        Queued, Refused, Report, ScoreRequest, ScoreRequests, ScoreResponse, ScoreResponses,
        from_control_plane::Message as Down, from_data_plane::Message as Up, refused::Reason,
        router_server::Router, router_server::RouterServer, score_response::Answer,
    },
};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{broadcast, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// How long anything may take that the owner waits for.
const SOON: Duration = Duration::from_secs(10);

/// What may wait for the owner, of each kind. More is dropped.
const HEARD: usize = 4_096;

/// A replica that runs on a port of the loopback until it is dropped.
#[derive(Debug)]
pub struct Replica {
    /// Where proxies connect.
    pub grpc: SocketAddr,
    questions: mpsc::Receiver<ScoreRequest>,
    cancels: mpsc::Receiver<u64>,
    lessons: mpsc::Receiver<Taught>,
    reports: mpsc::Receiver<Report>,
    desk: Desk,
    _serving: AbortOnDropHandle<()>,
}

/// What the service and its owner share.
#[derive(Clone, Debug)]
struct Desk {
    name: Arc<str>,
    /// What proxies are taught; none connects while there is none.
    snapshot: Arc<Mutex<Option<Snapshot>>>,
    questions: mpsc::Sender<ScoreRequest>,
    cancels: mpsc::Sender<u64>,
    lessons: mpsc::Sender<Taught>,
    reports: mpsc::Sender<Report>,
    answers: broadcast::Sender<ScoreResponse>,
    /// Every stream ends when it hears of this.
    breaks: broadcast::Sender<()>,
}

// === Replica ===

impl Replica {
    /// A replica of this name that teaches this snapshot.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(name: &str, snapshot: Snapshot) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let grpc = listener.local_addr()?;
        let (asked, questions) = mpsc::channel(HEARD);
        let (cancelled, cancels) = mpsc::channel(HEARD);
        let (taught, lessons) = mpsc::channel(HEARD);
        let (reported, reports) = mpsc::channel(HEARD);
        let desk = Desk {
            name: name.into(),
            snapshot: Arc::new(Mutex::new(Some(snapshot))),
            questions: asked,
            cancels: cancelled,
            lessons: taught,
            reports: reported,
            answers: broadcast::Sender::new(HEARD),
            breaks: broadcast::Sender::new(1),
        };
        let service = RouterServer::new(desk.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let serving = tokio::spawn(async move {
            // What is wrong with the listener, whoever connects will say.
            let _ended = Server::builder()
                .serve_with_incoming(service, TcpListenerStream::new(listener))
                .await;
        });
        Ok(Self {
            grpc,
            questions,
            cancels,
            lessons,
            reports,
            desk,
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

    /// The next question that is taken back.
    ///
    /// # Panics
    /// When none is in time.
    pub async fn cancel(&mut self) -> u64 {
        next(&mut self.cancels, "a cancel").await
    }

    /// What a proxy teaches next.
    ///
    /// # Panics
    /// When it teaches nothing in time.
    pub async fn history(&mut self) -> Taught {
        next(&mut self.lessons, "a history").await
    }

    /// What a proxy reports next.
    ///
    /// # Panics
    /// When it reports nothing in time.
    pub async fn report(&mut self) -> Report {
        next(&mut self.reports, "a report").await
    }

    /// Whether no proxy taught anything that was not taken.
    #[must_use]
    pub fn has_no_history(&mut self) -> bool {
        self.lessons.try_recv().is_err()
    }

    /// Says to whoever asked this that its request waits, for so long at most.
    pub fn queue(&self, request: u64, limit: Duration) {
        let limit_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        self.say(
            request,
            Answer::Queued(Queued {
                expected_ms: None,
                limit_ms,
                position: 0,
            }),
        );
    }

    /// Chooses this endpoint.
    pub fn choose(&self, request: u64, endpoint: u64) {
        let ranked = vec![Candidate {
            endpoint,
            ..Candidate::default()
        }];
        self.say(
            request,
            Answer::Chosen(Chosen {
                ranked,
                ..Chosen::default()
            }),
        );
    }

    /// Refuses.
    pub fn refuse(&self, request: u64, reason: Reason, retry_after: Duration) {
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        self.say(
            request,
            Answer::Refused(Refused {
                reason: reason.into(),
                retry_after_ms,
            }),
        );
    }

    /// Answers anything.
    pub fn say(&self, request: u64, answer: Answer) {
        // Without a stream there is nobody to hear it.
        let _heard = self.desk.answers.send(ScoreResponse {
            id: request,
            answer: Some(answer),
        });
    }

    /// Breaks every stream, and takes no new one until it comes back.
    pub fn leave(&self) {
        *self.desk.snapshot.lock() = None;
        let _heard = self.desk.breaks.send(());
    }

    /// Comes back: as it was, or with another epoch as one that has restarted.
    pub fn come_back(&self, snapshot: Snapshot) {
        *self.desk.snapshot.lock() = Some(snapshot);
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _heard = self.desk.breaks.send(());
    }
}

async fn next<T>(heard: &mut mpsc::Receiver<T>, what: &str) -> T {
    let Ok(Some(heard)) = timeout(SOON, heard.recv()).await else {
        panic!("no proxy sent {what} in time")
    };
    heard
}

// === Desk ===

/// Messages of one kind.
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Desk {
    fn hear(&self, message: FromDataPlane) {
        match message.message {
            Some(Up::Taught(taught)) => {
                let taught = Taught::try_from(taught).expect("a proxy teaches what can be read");
                let _full = self.lessons.try_send(taught);
            }
            Some(Up::Reports(reports)) => reports.reports.into_iter().for_each(|report| {
                let _full = self.reports.try_send(report);
            }),
            Some(Up::Hello(_) | Up::Ack(_) | Up::Reject(_) | Up::Open(_)) | None => {}
        }
    }

    fn hear_questions(&self, asked: ScoreRequests) {
        for question in asked.requests {
            let _full = self.questions.try_send(question);
        }
        for cancel in asked.cancels {
            let _full = self.cancels.try_send(cancel);
        }
    }

    /// `out`, while `inbound` is heard, until the streams are broken.
    fn answering<I, O>(
        &self,
        inbound: Streaming<I>,
        out: impl Stream<Item = O> + Send + 'static,
        hear: impl Fn(&Self, I) + Send + 'static,
    ) -> Messages<O>
    where
        I: Send + 'static,
        O: Send + 'static,
    {
        let desk = self.clone();
        let heard = inbound.filter_map(move |message| {
            message.into_iter().for_each(|message| hear(&desk, message));
            std::future::ready(None)
        });
        let mut breaks = self.breaks.subscribe();
        let broken = async move { breaks.recv().await.is_ok() };
        Box::pin(stream::select(heard, out.map(Ok)).take_until(Box::pin(broken)))
    }
}

#[tonic::async_trait]
impl Router for Desk {
    type SyncStream = Messages<FromControlPlane>;
    type ScoreStream = Messages<ScoreResponses>;

    async fn sync(
        &self,
        request: Request<Streaming<FromDataPlane>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let snapshot = self
            .snapshot
            .lock()
            .clone()
            .ok_or_else(|| Status::unavailable("it has left"))?;
        // As from a real one, the figures of every endpoint follow: all are idle.
        let endpoints = snapshot.pools.iter().flat_map(|pool| &pool.endpoints);
        let loads = endpoints
            .map(|endpoint| EndpointLoad::row(endpoint.id, &Load::default(), 0, 0))
            .collect();
        let first = [
            Down::Snapshot(snapshot_to_wire(&snapshot, &self.name)),
            Down::Load(LoadUpdate { loads }),
        ];
        let first = first.map(|message| FromControlPlane {
            message: Some(message),
        });
        let out = stream::iter(first).chain(stream::pending());
        Ok(Response::new(self.answering(
            request.into_inner(),
            out,
            Self::hear,
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
            Self::hear_questions,
        )))
    }

    async fn explain(
        &self,
        _request: Request<ScoreRequest>,
    ) -> Result<Response<Explanation>, Status> {
        Err(Status::unimplemented("a scripted replica explains nothing"))
    }
}
