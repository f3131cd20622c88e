//! One request to an HTTP server that helps with a choice: with a time limit, a concurrency limit,
//! and not at all while the server is down.
//!
//! ```text
//!   may we ask? (slots, breaker) ─▶ POST ─▶ the answer's bytes
//!        │ no                        │ error, late, not 200, too long
//!        └─────────▶ a LookupFault ◀───────┘
//! ```
//!
//! Invariants: one attempt; the time limit covers everything; a server that fails is left alone but
//! for a trial now and then; what was asked reaches no log and no error. What a question and an
//! answer mean is the asker's business.

use std::{fmt, time::Duration};

use bytes::Bytes;
use hermes_core::{
    ejection::{EndpointFailure, EndpointHealth},
    policy::EjectionPolicy,
};
use parking_lot::Mutex;
use reqwest::{
    Client, ClientBuilder, StatusCode, Url,
    header::{self, HeaderValue},
    redirect,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::bounded_body::{BodyFault, read_body};

/// A server that fails this often in a row is left alone for a second, then for twice as long, up
/// to half a minute.
const BREAKER: EjectionPolicy = EjectionPolicy {
    consecutive_failures: 5,
    base_time: Duration::from_secs(1),
    max_time: Duration::from_secs(30),
    slow_start: Duration::ZERO,
};

/// Asks one server.
#[derive(Debug)]
pub struct LookupClient {
    client: Client,
    limits: LookupLimits,
    slots: Semaphore,
    breaker: Mutex<EndpointHealth>,
    /// The breaker counts time from here.
    start: Instant,
}

/// What an answer may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupLimits {
    /// Questions that may be open at once.
    pub in_flight: usize,
    /// How long a question may take in all.
    pub budget: Duration,
    /// How much of it may go into a connection.
    pub connect: Duration,
    /// Longest answer in bytes.
    pub answer: usize,
}

/// What is sent.
#[derive(Clone)]
pub struct LookupRequest {
    /// Where to.
    pub url: Url,
    /// Of the body.
    pub content_type: &'static str,
    /// What is asked.
    pub body: Bytes,
    /// The value of `Authorization`, if the server wants a key.
    pub authorization: Option<HeaderValue>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupFault {
    /// None within the budget.
    Timeout,
    /// No connection.
    Refused,
    /// The connection broke.
    Broken,
    /// An answer with another status than 200.
    Status(u16),
    /// An answer that cannot be read, or over the size limit.
    Garbage,
    /// Too many questions are open already.
    Saturated,
    /// The server failed too often and is left alone for a while.
    Open,
}

// === LookupClient ===

impl LookupClient {
    /// Nothing was asked yet. Connections are plain when `url` is.
    ///
    /// # Errors
    /// When the process has no usable TLS configuration.
    pub fn new(limits: LookupLimits, url: &Url) -> Result<Self, reqwest::Error> {
        Ok(Self::with(client(limits.connect, url.scheme())?, limits))
    }

    /// As [`LookupClient::new`], over the connections of `client`.
    pub(crate) fn with(client: Client, limits: LookupLimits) -> Self {
        Self {
            client,
            limits,
            slots: Semaphore::new(limits.in_flight),
            breaker: Mutex::new(EndpointHealth::new(BREAKER)),
            start: Instant::now(),
        }
    }

    /// Asks, and waits at most the budget. `question` is made only when it may be asked.
    ///
    /// # Errors
    /// Why there is no answer, or no question.
    pub async fn ask<E: From<LookupFault>>(
        &self,
        question: impl FnOnce() -> Result<LookupRequest, E>,
    ) -> Result<Bytes, E> {
        let _slot = self
            .slots
            .try_acquire()
            .map_err(|_| LookupFault::Saturated)?;
        let attempt = LookupAttempt::begin(self).ok_or(LookupFault::Open)?;
        let answer = timeout(self.limits.budget, self.post(question()?)).await;
        Ok(attempt.end(answer.unwrap_or(Err(LookupFault::Timeout)))?)
    }

    async fn post(&self, question: LookupRequest) -> Result<Bytes, LookupFault> {
        let LookupRequest {
            url,
            content_type,
            body,
            authorization,
        } = question;
        let mut request = self
            .client
            .post(url)
            .header(header::CONTENT_TYPE, content_type)
            .body(body);
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let response = request
            .send()
            .await
            .map_err(|error| LookupFault::of(&error))?;
        if response.status() != StatusCode::OK {
            return Err(LookupFault::Status(response.status().as_u16()));
        }
        Ok(read_body(response, self.limits.answer).await?)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

/// An HTTP client without proxy and redirects.
pub(crate) fn client(connect: Duration, scheme: &str) -> Result<Client, reqwest::Error> {
    let builder = builder(connect);
    // CA certificates are wanted only where they are used: an image may have none.
    let builder = if scheme == "http" {
        builder.tls_certs_only([])
    } else {
        builder
    };
    builder.build()
}

/// The beginning of every client here, without TLS.
pub(crate) fn builder(connect: Duration) -> ClientBuilder {
    Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(connect)
        .tcp_nodelay(true)
        .http1_only()
}

// === LookupAttempt ===

/// One question that the breaker let through. Dropped without a result (its waiters left), it
/// leaves the trial to the next.
struct LookupAttempt<'a> {
    inquiry: &'a LookupClient,
    ended: bool,
}

impl<'a> LookupAttempt<'a> {
    fn begin(inquiry: &'a LookupClient) -> Option<Self> {
        let allowed = inquiry.breaker.lock().try_trial(inquiry.now());
        allowed.then(|| Self {
            inquiry,
            ended: false,
        })
    }

    /// Reports the result to the breaker, and returns it.
    fn end<T>(mut self, result: Result<T, LookupFault>) -> Result<T, LookupFault> {
        self.ended = true;
        let now = self.inquiry.now();
        let mut breaker = self.inquiry.breaker.lock();
        match &result {
            Ok(_) => breaker.on_success(now),
            Err(LookupFault::Timeout) => _ = breaker.on_failure(now, EndpointFailure::Timeout),
            Err(LookupFault::Refused) => _ = breaker.on_failure(now, EndpointFailure::Connect),
            Err(LookupFault::Status(status)) => {
                breaker.on_failure(now, EndpointFailure::Status(*status));
            }
            Err(_) => _ = breaker.on_failure(now, EndpointFailure::Reset),
        }
        result
    }
}

impl Drop for LookupAttempt<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let now = self.inquiry.now();
            self.inquiry.breaker.lock().on_abandoned(now);
        }
    }
}

// === LookupRequest ===

impl LookupRequest {
    /// A JSON body for `url`.
    pub fn json(url: Url, body: impl Into<Bytes>) -> Self {
        Self {
            url,
            content_type: "application/json",
            body: body.into(),
            authorization: None,
        }
    }
}

/// Neither the body, which may hold a prompt, nor the key is shown.
impl fmt::Debug for LookupRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookupRequest")
            .field("url", &self.url.as_str())
            .field("bytes", &self.body.len())
            .finish()
    }
}

// === LookupFault ===

impl LookupFault {
    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refused => "connect_failed",
            Self::Broken => "connection_broken",
            Self::Status(_) => "status",
            Self::Garbage => "invalid_response",
            Self::Saturated => "saturated",
            Self::Open => "circuit_open",
        }
    }

    pub(crate) fn of(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            return Self::Timeout;
        }
        if error.is_connect() {
            Self::Refused
        } else {
            Self::Broken
        }
    }
}

impl From<BodyFault> for LookupFault {
    fn from(fault: BodyFault) -> Self {
        match fault {
            BodyFault::Broken(error) => Self::of(&error),
            BodyFault::TooLarge => Self::Garbage,
        }
    }
}
