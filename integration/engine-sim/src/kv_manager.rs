//! A simulated global KV manager: an HTTP server that answers `POST /match_sort` and can misbehave.
//!
//! What it knows comes from a closure, so that a test can have it answer anything, and simulated
//! engines have it answer what is in their caches. It answers in the default shape, one row per
//! endpoint:
//!
//! ```json
//! {"data": [{"pod_ip": "10.0.0.7:8000", "match_rate": 0.5}]}
//! ```
//!
//! It keeps no prompt: what a request held is seen by the closure alone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::sleep;

pub use crate::api::question::{Question, QuestionPrompt as Prompt};
use crate::http_server::{Handler, HttpServer, reply};

/// A running KV manager on an ephemeral port of the loopback; it ends when dropped.
#[derive(Debug)]
pub struct KvManagerServer {
    server: HttpServer,
    state: Arc<State>,
}

/// How the server misbehaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Not at all.
    #[default]
    None,
    /// Takes questions and never answers.
    Hang,
    /// Answers after this time.
    Slow(Duration),
    /// Answers this status with no body.
    Status(u16),
    /// Answers 200 with something that is no JSON.
    Garbage,
    /// Answers 200 with no body.
    Empty,
    /// Closes every connection as soon as it is made.
    Refuse,
}

/// What a manager knows: for a question, ids of endpoints and the share of the prompt that each
/// holds.
type Know = dyn Fn(&Question) -> Vec<(String, f64)> + Send + Sync;

struct State {
    know: Box<Know>,
    fault: Mutex<Fault>,
    questions: AtomicUsize,
}

// === KvManagerServer ===

impl KvManagerServer {
    /// Starts a server that knows what `know` answers: ids of endpoints, and shares of the prompt,
    /// 0..=1.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start<K>(know: K) -> std::io::Result<Self>
    where
        K: Fn(&Question) -> Vec<(String, f64)> + Send + Sync + 'static,
    {
        let state = Arc::new(State {
            know: Box::new(know),
            fault: Mutex::new(Fault::None),
            questions: AtomicUsize::new(0),
        });
        let server = HttpServer::start(Arc::clone(&state)).await?;
        Ok(Self { server, state })
    }

    /// Its base URL, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Misbehaves like this from the next question on.
    pub fn set_fault(&self, fault: Fault) {
        *self.state.fault.lock() = fault;
    }

    /// How many questions came, answered or not.
    #[must_use]
    pub fn questions(&self) -> usize {
        self.state.questions.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("fault", &self.fault)
            .field("questions", &self.questions)
            .finish_non_exhaustive()
    }
}

// === State ===

impl Handler for State {
    fn answer(
        self: Arc<Self>,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Response<Full<Bytes>>> {
        async move { answer(&request, &self).await }.boxed()
    }

    fn is_open(&self) -> bool {
        *self.fault.lock() != Fault::Refuse
    }
}

async fn answer(request: &Request<Bytes>, state: &State) -> Response<Full<Bytes>> {
    if request.uri().path() != "/match_sort" {
        return reply(StatusCode::NOT_FOUND, "");
    }
    if request.method() != Method::POST {
        return reply(StatusCode::METHOD_NOT_ALLOWED, "");
    }
    state.questions.fetch_add(1, Ordering::Relaxed);
    let fault = *state.fault.lock();
    match fault {
        Fault::None => {}
        Fault::Hang => std::future::pending().await,
        Fault::Slow(delay) => sleep(delay).await,
        Fault::Status(status) => {
            return reply(
                StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                "",
            );
        }
        Fault::Garbage => return reply(StatusCode::OK, "<html>service unavailable</html>"),
        // Refusing happens at the connection; one that was open before is answered with nothing
        // too.
        Fault::Empty | Fault::Refuse => return reply(StatusCode::OK, ""),
    }
    let Some(question) = Question::read(request.body()) else {
        return reply(
            StatusCode::BAD_REQUEST,
            r#"{"error":"a question has model, and prompt or messages"}"#,
        );
    };
    answer_of(&(state.know)(&question))
}

/// The answer in the default shape.
pub fn answer_of(shares: &[(String, f64)]) -> Response<Full<Bytes>> {
    let rows: Vec<_> = shares
        .iter()
        .map(|(id, rate)| json!({"pod_ip": id, "match_rate": rate}))
        .collect();
    reply(StatusCode::OK, &json!({ "data": rows }).to_string())
}
