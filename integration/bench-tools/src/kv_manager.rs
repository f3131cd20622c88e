//! The KV manager of trials: asked by a control plane, it asks the simulated engines.
//!
//! ```text
//!   control plane ──POST /match_sort──▶ here ──POST /sim/held──▶ every engine among the question's candidates
//! ```
//!
//! It knows nothing itself, and so is never wrong about a simulated engine, and never right about a real one: those have
//! no such page, and are left out of the answer. Engines that do not answer within [`PATIENCE`] are left out, too.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use clap::Args;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;

use crate::load::client::{Client, Limits, Target};
use hermes_engine_sim::http_server::{Role, StandIn, reply};
use hermes_engine_sim::kv_manager::{Question, answer_of};

/// How long engines may take: less than a control plane waits.
const PATIENCE: Duration = Duration::from_millis(40);

/// Engines that are asked at once.
const AT_ONCE: usize = 64;

/// The command line of the KV manager of trials.
#[derive(Clone, Debug, Args)]
pub struct TrialArgs {
    /// Where to listen; port 0 picks a free one
    #[arg(
        long,
        env = "HERMES_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080"
    )]
    pub listen: SocketAddr,
}

/// A running one; it ends when dropped.
#[derive(Debug)]
pub struct TrialServer {
    server: StandIn,
}

#[derive(Debug)]
struct Asking;

impl TrialServer {
    /// Starts it.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(args: &TrialArgs) -> io::Result<Self> {
        Ok(Self {
            server: StandIn::start_at(args.listen, Arc::new(Asking)).await?,
        })
    }

    /// Its base URL, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }
}

impl Role for Asking {
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

/// The share of the prompt that each candidate holds, of those that tell.
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
