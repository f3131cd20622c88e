//! Asks a global KV manager which endpoints hold a prompt's KV cache: the `POST /match_sort` dialect.
//!
//! ```text
//!   Lookup ─▶ may we ask? (breaker, slots) ─▶ request: splice JSON ─▶ POST ─▶ answer: any known shape ─▶ hits
//!                     │ no                                │ error, late, unreadable
//!                     └──────────────────▶ no hint ◀──────┘
//! ```
//!
//! Invariants:
//! * an answer is a hint: whatever goes wrong, the result is no hits, a counter moves, and the request goes on;
//! * one attempt, inside one budget that covers everything; at most [`MAX_IN_FLIGHT`] questions are open;
//! * a manager that is down costs nothing but a trial now and then (the breaker's);
//! * prompts pass through as the bytes that came, and never reach a log, an error or a metric.
//!
//! Which endpoints exist and how a hint enters a choice is decided elsewhere: hits name only given candidates.
//! Another dialect (the conductor's `/query` over token ids) is another request and another answer module.

mod answer;
mod metrics;
mod request;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hermes_core::{
    breaker::{Breaker, Failure},
    policy::BreakerPolicy,
    query::Hit,
    snapshot::EndpointId,
};
use parking_lot::Mutex;
use reqwest::{Client, StatusCode, Url, header, redirect};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

pub use self::metrics::{KvMetrics, Outcome};

/// Questions that one manager is asked at once; over it there is no hint.
pub const MAX_IN_FLIGHT: usize = 256;

/// Longest question in bytes: the published server reads no more.
pub const MAX_REQUEST: usize = 4 << 20;

/// Longest answer in bytes that is read.
const MAX_ANSWER: usize = 1 << 20;

/// A manager that fails this often in a row is left alone for a second, then for twice as long, up to half a minute.
const BREAKER: BreakerPolicy = BreakerPolicy {
    failures: 5,
    base: Duration::from_secs(1),
    longest: Duration::from_secs(30),
    warm_up: Duration::ZERO,
};

/// The client of one KV manager.
#[derive(Debug)]
pub struct KvManager {
    settings: KvManagerSettings,
    url: Url,
    client: Client,
    slots: Semaphore,
    breaker: Mutex<Breaker>,
    /// The breaker counts time from here.
    start: Instant,
    metrics: KvMetrics,
}

/// Where a KV manager is and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvManagerSettings {
    /// Scheme and authority, or the whole URL when `path` is empty.
    pub url: Arc<str>,
    /// Appended to the URL.
    pub path: Arc<str>,
    /// How long one lookup may take in all.
    pub budget: Duration,
    /// How much of it may go into a connection.
    pub connect_timeout: Duration,
    /// Keys of an answer's row that may name an endpoint, in order of preference; empty for [`DEFAULT_ID_KEYS`].
    pub id_keys: Vec<Arc<str>>,
    /// Keys of an answer's row that may hold its score, in order of preference; empty for [`DEFAULT_SCORE_KEYS`].
    pub score_keys: Vec<Arc<str>>,
}

/// One question: who of these holds how much of this prompt?
#[derive(Clone)]
pub struct Lookup {
    /// The model that the request names.
    pub model: Arc<str>,
    /// The prompt.
    pub text: Text,
    /// Among whom.
    pub candidates: Vec<Candidate>,
    /// Length of the prompt in tokens, by which rates become tokens.
    pub prompt_tokens: u32,
}

/// A prompt as the client wrote it: one raw JSON value.
#[derive(Clone)]
pub enum Text {
    /// The value of `prompt`.
    Prompt(Bytes),
    /// The value of `messages`.
    Messages(Bytes),
}

/// One endpoint that a manager may know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Ours.
    pub endpoint: EndpointId,
    /// `ip:port`.
    pub authority: Arc<str>,
    /// `namespace/pod`, or anything else that a manager may call it; may be empty.
    pub name: Arc<str>,
}

/// The URL of a manager cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KvManagerError {
    /// It is none.
    #[error("KV manager URL is not valid: {0}; it should look like http://mooncake:8080/match_sort")]
    Url(String),
    /// The process has no usable TLS configuration.
    #[error("HTTP client of the KV manager cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

pub use self::answer::{DEFAULT_ID_KEYS, DEFAULT_SCORE_KEYS};

// === KvManager ===

impl KvManager {
    /// A client that has not asked anything yet.
    ///
    /// # Errors
    /// When the URL is not a valid HTTP URL, or the process has no usable TLS configuration.
    pub fn new(settings: KvManagerSettings, metrics: KvMetrics) -> Result<Self, KvManagerError> {
        let url = settings.endpoint()?;
        let builder = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(settings.connect_timeout)
            .tcp_nodelay(true);
        // CA certificates are wanted only where they are used: an image may have none.
        let builder = if url.scheme() == "http" { builder.tls_certs_only([]) } else { builder };
        let client = builder.build()?;
        Ok(Self {
            settings,
            url,
            client,
            slots: Semaphore::new(MAX_IN_FLIGHT),
            breaker: Mutex::new(Breaker::new(BREAKER)),
            start: Instant::now(),
            metrics,
        })
    }

    /// Who holds how much of the prompt, as far as the manager tells within its budget. Endpoints that hold nothing
    /// are left out.
    pub async fn lookup(&self, lookup: Lookup) -> Vec<Hit> {
        let started = Instant::now();
        let result = self.ask(&lookup, started).await;
        let outcome = match &result {
            Ok(hits) if hits.is_empty() => Outcome::Miss,
            Ok(_) => Outcome::Hit,
            Err(outcome) => *outcome,
        };
        self.metrics.observe(outcome, started.elapsed());
        result.unwrap_or_default()
    }

    async fn ask(&self, lookup: &Lookup, started: Instant) -> Result<Vec<Hit>, Outcome> {
        if lookup.candidates.is_empty() {
            return Ok(Vec::new());
        }
        let _slot = self.slots.try_acquire().map_err(|_| Outcome::Saturated)?;
        let body = request::body(lookup)?;
        let attempt = Attempt::begin(self).ok_or(Outcome::Open)?;
        let answer = timeout_at(started + self.settings.budget, self.post(body)).await;
        let answer = attempt.end(answer.unwrap_or(Err(Outcome::Timeout)))?;
        answer::hits(&answer, lookup, &self.settings)
    }

    async fn post(&self, body: Bytes) -> Result<Vec<u8>, Outcome> {
        let request = self.client.post(self.url.clone()).header(header::CONTENT_TYPE, "application/json").body(body);
        let mut response = request.send().await.map_err(|error| Outcome::of(&error))?;
        if response.status() != StatusCode::OK {
            return Err(Outcome::Status(response.status().as_u16()));
        }
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| Outcome::of(&error))? {
            if answer.len() + chunk.len() > MAX_ANSWER {
                return Err(Outcome::Garbage);
            }
            answer.extend_from_slice(&chunk);
        }
        Ok(answer)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

// === Attempt ===

/// One question that the breaker let through. Dropped without an end (the request went away), it leaves the trial to
/// the next.
struct Attempt<'a> {
    manager: &'a KvManager,
    ended: bool,
}

impl<'a> Attempt<'a> {
    fn begin(manager: &'a KvManager) -> Option<Self> {
        let allowed = manager.breaker.lock().try_trial(manager.now());
        allowed.then(|| Self { manager, ended: false })
    }

    /// Tells the breaker how it went, and passes the result on.
    fn end<T>(mut self, result: Result<T, Outcome>) -> Result<T, Outcome> {
        self.ended = true;
        let now = self.manager.now();
        let mut breaker = self.manager.breaker.lock();
        match &result {
            Ok(_) => breaker.on_success(now),
            Err(Outcome::Timeout) => breaker.on_failure(now, Failure::Timeout),
            Err(Outcome::Refused) => breaker.on_failure(now, Failure::Connect),
            Err(Outcome::Status(status)) => breaker.on_failure(now, Failure::Status(*status)),
            Err(_) => breaker.on_failure(now, Failure::Reset),
        }
        result
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let now = self.manager.now();
            self.manager.breaker.lock().on_abandoned(now);
        }
    }
}

// === KvManagerSettings ===

impl KvManagerSettings {
    fn endpoint(&self) -> Result<Url, KvManagerError> {
        let text = match self.path.trim_start_matches('/') {
            "" => self.url.to_string(),
            path => format!("{}/{path}", self.url.trim_end_matches('/')),
        };
        let invalid = |reason: &dyn std::fmt::Display| KvManagerError::Url(format!("{text}: {reason}"));
        let url = Url::parse(&text).map_err(|error| invalid(&error))?;
        match url.scheme() {
            "http" | "https" => Ok(url),
            scheme => Err(invalid(&format_args!("scheme {scheme} is not http or https"))),
        }
    }
}

impl Default for KvManagerSettings {
    fn default() -> Self {
        Self {
            url: "".into(),
            path: "/match_sort".into(),
            budget: Duration::from_millis(50),
            connect_timeout: Duration::from_secs(1),
            id_keys: Vec::new(),
            score_keys: Vec::new(),
        }
    }
}
