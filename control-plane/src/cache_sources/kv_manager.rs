//! Asks a global KV manager which endpoints hold a prompt's KV cache.
//!
//! ```text
//!   Lookup ─▶ asked lately? ─▶ being asked? ─▶ inquiry: dialect writes the question ─▶ POST ─▶ dialect reads the answer
//!              │ (recall)       │ (flights)       │ down, late, unreadable                      │
//!              └─▶ hits         └─▶ its hits      └──────────────▶ no hint                      └─▶ hits
//! ```
//!
//! Invariants:
//! * an answer is a hint: whatever goes wrong, the result is no hits, a counter moves, and the
//!   request goes on;
//! * one attempt, inside one budget that covers everything; at most [`MAX_IN_FLIGHT`] questions are
//!   open;
//! * the same prefix is asked about once at a time, even when some waiters leave, and the answer is
//!   reused for a short time;
//! * a manager that is down costs nothing but a trial now and then (the breaker's);
//! * prompts pass through as the bytes that came, and never reach a log, an error or a metric.
//!
//! Which endpoints exist and how a hint enters a choice is decided elsewhere: hits name only given
//! candidates. Another language is another [`Dialect`]: a module that writes a question and reads
//! an answer.

mod conductor;
mod dialect;
mod match_sort;
mod metrics;
mod names;
mod recall;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use hermes_core::{
    query::CacheHit,
    snapshot::{EndpointId, Pool},
};
use reqwest::Url;
use tokio::time::Instant;

use self::{conductor::EngineRegistration, recall::AnswerCache};
pub use self::{
    conductor::{Conductor, Encoding, Registration, Source as EventSource},
    dialect::Dialect,
    match_sort::{DEFAULT_ID_KEYS, DEFAULT_SCORE_KEYS, MatchSort},
    metrics::{AnswerOrigin, KvManagerMetrics, LookupOutcome},
};
use crate::cache_sources::{
    lookup_client::{self, LookupClient, LookupLimits, LookupRequest},
    single_flight::SingleFlight,
};

/// Questions that one manager is asked at once; over it there is no hint.
pub const MAX_IN_FLIGHT: usize = 256;

/// Longest question in bytes: the published server reads no more.
pub const MAX_REQUEST: usize = 4 << 20;

/// Longest answer in bytes that is read.
const MAX_ANSWER: usize = 1 << 20;

/// Identifies the subject of a lookup.
type LookupKey = u128;

/// The client of one KV manager.
#[derive(Debug)]
pub struct KvManager {
    asker: Arc<ManagerClient>,
    flights: SingleFlight<LookupKey, Result<Arc<[CacheHit]>, LookupOutcome>>,
    recall: Arc<AnswerCache>,
    registrar: Option<EngineRegistration>,
}

/// Asks the manager.
#[derive(Debug)]
struct ManagerClient {
    dialect: Dialect,
    url: Url,
    inquiry: LookupClient,
    metrics: KvManagerMetrics,
}

/// Where a KV manager is and how it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvManagerSettings {
    /// Its protocol.
    pub dialect: Dialect,
    /// Where its lookup is: `http://host:port/path`.
    pub url: Arc<str>,
    /// How long a connection may take to open, within `budget`.
    pub timeout: Duration,
    /// How long a request waits for a lookup.
    pub budget: Duration,
    /// How long a lookup's result is used.
    pub cache: Duration,
}

/// One question: who of these holds how much of this prompt?
#[derive(Clone, Default)]
pub struct Lookup {
    /// The model that the request names; its base when that is an adapter.
    pub model: Arc<str>,
    /// The adapter, if it is one.
    pub lora: Option<Arc<str>>,
    /// The prompt.
    pub text: Text,
    /// Its tokens, as the engine will make them, if they are known.
    pub token_ids: Option<Arc<[u32]>>,
    /// Hash of the prompt's last whole block and so of all before it, if it was hashed.
    pub prefix: Option<u64>,
    /// Keeps the caches of tenants apart inside an engine.
    pub cache_salt: Option<Arc<str>>,
    /// Tokens in a block of the engines, as they say.
    pub block_size: Option<u32>,
    /// The endpoints in question.
    pub candidates: Vec<LookupCandidate>,
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
pub struct LookupCandidate {
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
    #[error(
        "KV manager URL is not valid: {0}; it should look like http://mooncake:8080/match_sort"
    )]
    Url(String),
    /// The process has no usable TLS configuration.
    #[error("HTTP client of the KV manager cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

// === KvManager ===

impl KvManager {
    /// A client that has not asked anything yet. One that registers publishers begins to, on the
    /// current runtime.
    ///
    /// # Errors
    /// When the URL is not a valid HTTP URL, or the process has no usable TLS configuration.
    pub fn new(
        settings: KvManagerSettings,
        metrics: KvManagerMetrics,
    ) -> Result<Self, KvManagerError> {
        let url = settings.endpoint()?;
        let KvManagerSettings {
            dialect,
            timeout,
            budget,
            cache,
            ..
        } = settings;
        let connect = timeout.min(budget);
        let client = lookup_client::client(connect, url.scheme())?;
        let limits = LookupLimits {
            in_flight: MAX_IN_FLIGHT,
            budget,
            connect,
            answer: MAX_ANSWER,
        };
        let registrar = match &dialect {
            Dialect::Conductor(conductor) => conductor.register.as_ref().map(|registration| {
                EngineRegistration::begin(conductor, registration, client.clone(), url.clone())
            }),
            Dialect::MatchSort(_) => None,
        };
        let asker = Arc::new(ManagerClient {
            dialect,
            url,
            inquiry: LookupClient::with(client, limits),
            metrics,
        });
        let (flights, recall) = (SingleFlight::default(), Arc::new(AnswerCache::new(cache)));
        Ok(Self {
            asker,
            flights,
            recall,
            registrar,
        })
    }

    /// Sets the endpoints to look up, and the block size of their caches in tokens.
    pub fn follow(&self, pool: &Pool, block_size: Option<u32>) {
        if let Some(registrar) = &self.registrar {
            registrar.follow(pool, block_size);
        }
    }

    /// Whether it can answer only questions with token ids.
    #[must_use]
    pub fn needs_tokens(&self) -> bool {
        self.asker.dialect.needs_tokens()
    }

    /// How much of the prompt each endpoint holds, if the manager answers within its budget.
    /// Endpoints that hold nothing are left out.
    pub async fn lookup(&self, lookup: Lookup) -> Arc<[CacheHit]> {
        let ManagerClient {
            dialect, metrics, ..
        } = &*self.asker;
        match dialect.has_question(&lookup) {
            Ok(true) => {}
            Ok(false) => return Arc::default(),
            Err(outcome) => {
                metrics.observe(outcome, Duration::ZERO);
                return Arc::default();
            }
        }
        let key = dialect.key(&lookup);
        if let Some(hits) = self.recall.get(key) {
            metrics.answered(AnswerOrigin::Cache);
            return hits;
        }
        let (flight, joined) = self.flights.join(key, || self.ask(key, lookup));
        metrics.answered(if joined {
            AnswerOrigin::Shared
        } else {
            AnswerOrigin::Manager
        });
        flight.await.unwrap_or_default()
    }

    fn ask(
        &self,
        key: LookupKey,
        lookup: Lookup,
    ) -> BoxFuture<'static, Result<Arc<[CacheHit]>, LookupOutcome>> {
        let (asker, recall) = (Arc::clone(&self.asker), Arc::clone(&self.recall));
        async move {
            let hits = asker.ask(&lookup).await?.into();
            recall.put(key, &hits);
            Ok(hits)
        }
        .boxed()
    }
}

// === ManagerClient ===

impl ManagerClient {
    async fn ask(&self, lookup: &Lookup) -> Result<Vec<CacheHit>, LookupOutcome> {
        let started = Instant::now();
        let result = self.attempt(lookup).await;
        let outcome = match &result {
            Ok(hits) if hits.is_empty() => LookupOutcome::Miss,
            Ok(_) => LookupOutcome::Hit,
            Err(outcome) => *outcome,
        };
        self.metrics.observe(outcome, started.elapsed());
        result
    }

    async fn attempt(&self, lookup: &Lookup) -> Result<Vec<CacheHit>, LookupOutcome> {
        let question = || {
            let body = self.dialect.question(lookup)?;
            Ok::<_, LookupOutcome>(LookupRequest {
                url: self.url.clone(),
                content_type: self.dialect.content_type(),
                body,
                authorization: None,
            })
        };
        let answer = self.inquiry.ask(question).await?;
        self.dialect.hits(&answer, lookup)
    }
}

// === KvManagerSettings ===

impl KvManagerSettings {
    fn endpoint(&self) -> Result<Url, KvManagerError> {
        let text = &self.url;
        let invalid =
            |reason: &dyn std::fmt::Display| KvManagerError::Url(format!("{text}: {reason}"));
        let url = Url::parse(text).map_err(|error| invalid(&error))?;
        match url.scheme() {
            "http" | "https" => Ok(url),
            scheme => Err(invalid(&format_args!(
                "scheme {scheme} is not http or https"
            ))),
        }
    }
}

// === Text ===

impl Default for Text {
    fn default() -> Self {
        Self::Prompt(Bytes::from_static(b"\"\""))
    }
}
