//! A KV manager over simulated engines: it answers the control plane with what the engines report.
//!
//! ```text
//!   control plane ──POST /match_sort──▶ here ──POST /sim/held──▶ every engine among the question's candidates
//! ```
//!
//! It keeps no state, so its answers are exact. Real engines have no such page and are left out of
//! the answer, as are engines that do not answer within [`PATIENCE`].

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use clap::Args;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;

use crate::load::client::{Client, Limits, Target};
use hermes_engine_sim::http_server::{Handler, HttpServer, reply};
use hermes_engine_sim::kv_manager::{Question, answer_of};

/// Time limit for an engine's answer: shorter than the control plane's own.
const PATIENCE: Duration = Duration::from_millis(40);

/// Engines queried at once.
const AT_ONCE: usize = 64;

/// The arguments of `hermes kv-manager`.
#[derive(Clone, Debug, Args)]
pub struct KvManagerArgs {
    /// Where to listen; port 0 picks a free one
    #[arg(
        long,
        env = "HERMES_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080"
    )]
    pub listen: SocketAddr,
}

/// A running KV manager; it ends when dropped.
#[derive(Debug)]
pub struct KvManager {
    server: HttpServer,
}

#[derive(Debug)]
struct EngineLookup;

impl KvManager {
    /// Starts it on `listen`.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(args: &KvManagerArgs) -> io::Result<Self> {
        Ok(Self {
            server: HttpServer::start_at(args.listen, Arc::new(EngineLookup)).await?,
        })
    }

    /// Its base URL, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }
}

impl Handler for EngineLookup {
    fn answer(
        self: Arc<Self>,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Response<Full<Bytes>>> {
        async move { answer(&request).await }.boxed()
    }
}

async fn answer(request: &Request<Bytes>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/health") => reply(StatusCode::OK, ""),
        (&Method::POST, "/match_sort") => match Question::read(request.body()) {
            Some(question) => answer_of(&shares(question, request.body()).await),
            None => reply(
                StatusCode::BAD_REQUEST,
                r#"{"error":"a question has model, and prompt or messages"}"#,
            ),
        },
        _ => reply(StatusCode::NOT_FOUND, ""),
    }
}

/// The share of the prompt that each candidate holds, of those that answer.
async fn shares(question: Question, body: &Bytes) -> Vec<(String, f64)> {
    let asked = question.candidates.into_iter().map(|engine| async move {
        let target = Target::parse(&format!("http://{engine}")).ok()?;
        let client = Client::new(
            target,
            Limits {
                connect: PATIENCE,
                answer: PATIENCE,
            },
        );
        let share = serde_json::from_slice(&client.post("/sim/held", body.clone()).await?).ok()?;
        Some((engine, share))
    });
    stream::iter(asked)
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await
}
