//! A server over HTTP/2 with prior knowledge and nothing else, whose streams a test answers, refuses
//! and resets as it says.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    server::{self, SendResponse},
};
use http::{HeaderMap, Request, Response, StatusCode};
use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

/// A running server; dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Http2Server {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<SeenByHttp2>,
    _accepting: AbortOnDropHandle<()>,
}

/// What a server has seen.
#[derive(Debug, Default)]
struct SeenByHttp2 {
    requests: Mutex<Vec<Request<Bytes>>>,
    connections: AtomicUsize,
    /// Streams that their clients reset.
    resets: AtomicUsize,
    /// Requests for pages that probes ask.
    probes: AtomicUsize,
}

/// An answer of a server over HTTP/2.
#[derive(Clone, Debug, Default)]
pub struct WholeAnswer {
    /// Headers.
    pub headers: HeaderMap,
    /// The body, each piece after a pause.
    pub pieces: Vec<(Duration, &'static str)>,
    /// What follows the body.
    pub trailers: Option<HeaderMap>,
}

/// What becomes of one stream.
#[derive(Clone, Debug)]
pub enum Http2Answer {
    /// This answer.
    Whole(Box<WholeAnswer>),
    /// A head that ends the stream.
    Empty,
    /// The stream is reset, for this reason.
    Reset(Reason),
    /// The connection is closed at once.
    Close,
    /// The same answer as [`Self::Whole`] has, and the connection is closed when its streams have
    /// ended (GOAWAY).
    Last(&'static str),
}

type Script = dyn Fn(&Request<Bytes>, usize) -> Http2Answer + Send + Sync;

impl Http2Server {
    /// Listens on a free port. `script` answers a request, and gets the number of those that came before it.
    ///
    /// # Errors
    ///
    /// When no port is free.
    pub async fn start(
        script: impl Fn(&Request<Bytes>, usize) -> Http2Answer + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        Self::limited(None, script).await
    }

    /// The same, with at most this many streams of a connection at once.
    ///
    /// # Errors
    ///
    /// When no port is free.
    pub async fn limited(
        streams: Option<u32>,
        script: impl Fn(&Request<Bytes>, usize) -> Http2Answer + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let seen = Arc::<SeenByHttp2>::default();
        let (script, recorded): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&seen));
        let accepting = tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.retain(|task: &AbortOnDropHandle<_>| !task.is_finished());
                let mut settings = server::Builder::new();
                if let Some(streams) = streams {
                    settings.max_concurrent_streams(streams);
                }
                let (script, recorded) = (Arc::clone(&script), Arc::clone(&recorded));
                let serving = serve(stream, settings, script, recorded);
                connections.push(AbortOnDropHandle::new(tokio::spawn(serving)));
            }
        });
        Ok(Self {
            address,
            seen,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    /// The requests, without those for pages that probes ask.
    #[must_use]
    pub fn requests(&self) -> Vec<Request<Bytes>> {
        self.seen.requests.lock().clone()
    }

    /// Connections that brought a request.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    /// Requests for pages that probes ask.
    #[must_use]
    pub fn probes(&self) -> usize {
        self.seen.probes.load(Ordering::Relaxed)
    }

    /// Streams that were reset before their answer was complete.
    #[must_use]
    pub fn resets(&self) -> usize {
        self.seen.resets.load(Ordering::Relaxed)
    }
}

// === Http2Answer ===

impl Http2Answer {
    /// An answer at once.
    #[must_use]
    pub fn ok(body: &'static str) -> Self {
        Self::events(&[(Duration::ZERO, body)])
    }

    /// An answer in pieces.
    #[must_use]
    pub fn events(pieces: &[(Duration, &'static str)]) -> Self {
        Self::Whole(Box::new(WholeAnswer {
            pieces: pieces.to_vec(),
            ..WholeAnswer::default()
        }))
    }
}

/// Pages that the control plane asks engines for.
const PROBED: [&str; 4] = ["/metrics", "/health", "/v1/models", "/get_server_info"];

async fn serve(
    stream: TcpStream,
    settings: server::Builder,
    script: Arc<Script>,
    seen: Arc<SeenByHttp2>,
) {
    let Ok(mut connection) = settings.handshake(stream).await else {
        return;
    };
    let (mut is_counted, mut streams) = (false, Vec::new());
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        if PROBED.contains(&request.uri().path()) {
            seen.probes.fetch_add(1, Ordering::Relaxed);
            let none = Response::builder().status(StatusCode::NOT_FOUND);
            let _sent = respond.send_response(none.body(()).expect("valid"), true);
            continue;
        }
        if !std::mem::replace(&mut is_counted, true) {
            seen.connections.fetch_add(1, Ordering::Relaxed);
        }
        let (head, body) = request.into_parts();
        let before = seen.requests.lock().len();
        // The decision is by the head alone: the body is read beside other streams.
        let shown = Request::from_parts(head.clone(), Bytes::new());
        let answer = script(&shown, before);
        seen.requests.lock().push(shown);
        match &answer {
            Http2Answer::Close => return,
            Http2Answer::Last(_) => connection.graceful_shutdown(),
            Http2Answer::Reset(reason) => {
                // Without its body, which a client may never end.
                respond.send_reset(*reason);
                continue;
            }
            Http2Answer::Whole(_) | Http2Answer::Empty => {}
        }
        let seen = Arc::clone(&seen);
        let answering = tokio::spawn(async move {
            if let Some(bytes) = whole(body).await
                && let Some(request) = seen.requests.lock().get_mut(before)
            {
                *request.body_mut() = bytes;
            }
            if !respond_with(answer, respond).await {
                seen.resets.fetch_add(1, Ordering::Relaxed);
            }
        });
        streams.push(AbortOnDropHandle::new(answering));
    }
}

async fn whole(mut body: RecvStream) -> Option<Bytes> {
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.ok()?;
        let _released = body.flow_control().release_capacity(piece.len());
        bytes.extend_from_slice(&piece);
    }
    Some(bytes.into())
}

/// Returns whether the client took all of it.
async fn respond_with(answer: Http2Answer, mut respond: SendResponse<Bytes>) -> bool {
    let WholeAnswer {
        headers,
        pieces,
        trailers,
    } = match answer {
        Http2Answer::Whole(answer) => *answer,
        Http2Answer::Last(body) => WholeAnswer {
            pieces: vec![(Duration::ZERO, body)],
            ..WholeAnswer::default()
        },
        Http2Answer::Empty => return respond.send_response(Response::new(()), true).is_ok(),
        // They have no answer.
        Http2Answer::Reset(_) | Http2Answer::Close => return true,
    };
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    let Ok(mut stream) = respond.send_response(response, false) else {
        return false;
    };
    for (pause, piece) in pieces {
        let waiting = std::future::poll_fn(|cx| stream.poll_reset(cx));
        tokio::select! {
            biased;
            _ = waiting => return false,
            () = sleep(pause) => {}
        }
        let piece = Bytes::from_static(piece.as_bytes());
        if stream.send_data(piece, false).is_err() {
            return false;
        }
    }
    let ended = match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None => stream.send_data(Bytes::new(), true),
    };
    ended.is_ok()
}
