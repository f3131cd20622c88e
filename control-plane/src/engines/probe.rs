//! The task that keeps asking one endpoint how it is.
//!
//! ```text
//!   wait (jittered) ─▶ slot ─▶ metrics ─404─▶ health ─404─▶ models ─▶ ProbeResult ─▶ reader
//!        ▲                        └── 200 ────────────────────▲                        │
//!        └────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! An endpoint without metrics is healthy as long as it answers at all, unless its health page says
//! that it is not (503, while a model loads): its signals are off, and a cheaper question takes the
//! place of the scrape. One that knows none of these pages lists no model. `/v1/models` is asked at
//! first contact, soon after a failure has passed, and now and then.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use hermes_core::rng::SeededRng;
use reqwest::Url;
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep_until},
};

use super::{
    EngineClient, EngineClients, ModelCard, NoEngineClient, PairingStatement, ProbeFailure,
    ProbeResult, ProbeTarget, ScrapeMetrics, Scraped, fetch, models,
    pairing_probe::{PairingContact, PairingProbe},
};

/// Largest metrics page in bytes. A server with hundreds of ranks stays far below.
const MAX_PAGE: usize = 4 << 20;

/// Largest model list in bytes.
const MAX_LIST: usize = 1 << 20;

/// How often a server's models are asked for while nothing happens.
const MODELS_EVERY: Duration = Duration::from_secs(30);

/// How often, if it has adapters or may load some: users request one as soon as it is loaded.
const ADAPTERS_EVERY: Duration = Duration::from_secs(1);

/// Turns in which a server that has listed models knows no page, until it lists none: a gateway
/// that restarts answers 404 to everything for a moment.
const UNKNOWN_TURNS: u8 = 3;

/// How often a server without metrics is asked again whether it has some.
const METRICS_AGAIN: Duration = Duration::from_secs(60);

/// First scrapes of endpoints that appear together spread over this time.
const SPREAD: Duration = Duration::from_millis(250);

/// A server that hangs holds a slot for its whole timeout, so it is asked less often: up to this
/// many intervals.
const MAX_STRETCH: u32 = 8;

/// What all probes share.
#[derive(Clone, Debug)]
pub(super) struct ProbeContext {
    pub(super) clients: EngineClients,
    pub(super) sink: mpsc::Sender<ProbeResult>,
    pub(super) metrics: ScrapeMetrics,
}

/// The state of one endpoint's questions.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    shared: ProbeContext,
    /// Of its pool.
    slots: Arc<Semaphore>,
    target: ProbeTarget,
    engine: EngineClient,
    pages: ProbeUrls,
    question: ProbePage,
    metrics_again: Instant,
    models_due: Instant,
    timeouts: u32,
    /// It lists adapters, or its metrics name them.
    has_adapters: bool,
    /// Turns until it counts as one that lists no model.
    unknown_turns_left: u8,
    /// See [`ProbeResult`].
    is_loading: bool,
    pairing: Option<PairingProbe>,
    rng: SeededRng,
}

/// Where the endpoint answers.
#[derive(Clone, Debug)]
struct ProbeUrls {
    metrics: Option<Url>,
    health: Url,
    models: Url,
}

/// What is asked at every turn: the first that the endpoint knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProbePage {
    Metrics,
    Health,
    Models,
}

// === Probe ===

impl Probe {
    /// # Errors
    /// When there is no client for the target.
    pub(super) fn new(
        shared: ProbeContext,
        slots: Arc<Semaphore>,
        target: ProbeTarget,
        seed: u64,
    ) -> Result<Self, NoEngineClient> {
        let engine = client_of(&shared.clients, &target)?;
        let pages = ProbeUrls::of(&engine, target.metrics_path.as_deref())?;
        let pairing = target
            .pairing
            .map(|question| PairingProbe::new(question, &target.address, &engine, &shared.clients));
        let now = Instant::now();
        Ok(Self {
            shared,
            slots,
            engine,
            rng: SeededRng::new(seed ^ target.id.0),
            question: ProbePage::first(&pages),
            pages,
            target,
            metrics_again: now,
            models_due: now,
            timeouts: 0,
            has_adapters: false,
            unknown_turns_left: 1,
            is_loading: false,
            pairing: pairing.transpose()?,
        })
    }

    /// Probes until it is aborted or the receiver is gone.
    pub(super) async fn run(mut self) {
        let mut next = Instant::now() + SPREAD.min(self.target.interval).mul_f32(self.rng.unit());
        loop {
            sleep_until(next).await;
            self.renew_client();
            let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else {
                return;
            };
            let started = Instant::now();
            let observation = self.observe(started).await;
            drop(slot);
            if !self.send(observation) {
                return;
            }
            next = started + self.pause();
        }
    }

    /// Takes another client in place of one that cannot verify the engine. When there is none, this
    /// one is kept until the next turn.
    fn renew_client(&mut self) {
        if self.engine.is_outdated()
            && let Ok(engine) = client_of(&self.shared.clients, &self.target)
        {
            self.engine = engine;
        }
    }

    async fn observe(&mut self, started: Instant) -> ProbeResult {
        let outcome = self.ask().await;
        let at = Instant::now();
        match &outcome {
            Ok(scraped) => {
                self.shared
                    .metrics
                    .succeeded(&self.target.address, at - started);
                self.shared
                    .metrics
                    .read(scraped.refused, scraped.skipped_lines);
                self.timeouts = 0;
                self.has_adapters |= scraped.may_load_adapters;
            }
            Err(failure) => {
                // It may come back as another server with other models.
                self.models_due = at;
                self.timeouts = if *failure == ProbeFailure::Timeout {
                    self.timeouts + 1
                } else {
                    0
                };
            }
        }
        let models = if outcome.is_ok() {
            self.models(at).await
        } else {
            None
        };
        let pairing = self.pairing(&outcome).await;
        ProbeResult {
            endpoint: self.target.id,
            pool: Arc::clone(&self.target.pool),
            at,
            outcome,
            is_loading: self.is_loading,
            models,
            pairing,
        }
    }

    /// What is new of the endpoint's part in pairs.
    async fn pairing(
        &mut self,
        outcome: &Result<Scraped, ProbeFailure>,
    ) -> Option<PairingStatement> {
        let contact = PairingContact {
            engine: &self.engine,
            key: self.target.key.as_ref(),
            limit: self.target.timeout,
        };
        let news = self.pairing.as_mut()?.turn(outcome, contact).await;
        let metrics = &self.shared.metrics;
        news.unwrap_or_else(|failure| {
            metrics.failed("pairing", failure);
            None
        })
    }

    /// Asks the first question that the endpoint knows.
    async fn ask(&mut self) -> Result<Scraped, ProbeFailure> {
        if self.question != ProbePage::Metrics && Instant::now() >= self.metrics_again {
            self.question = ProbePage::first(&self.pages);
        }
        loop {
            let answer = self.ask_once(self.question).await;
            let Err(failure) = answer else {
                self.is_loading = false;
                return answer;
            };
            self.note_loading(failure).await;
            let Some(next) = self.question.instead(failure) else {
                self.shared.metrics.failed(self.question.name(), failure);
                return Err(failure);
            };
            if self.question == ProbePage::Metrics {
                self.metrics_again = Instant::now() + METRICS_AGAIN;
            }
            self.question = next;
        }
    }

    /// A server that cannot serve its metrics is asked for its health, in the same turn.
    async fn note_loading(&mut self, failure: ProbeFailure) {
        let health = match (self.question, failure) {
            (ProbePage::Health, failure) => Err(failure),
            (ProbePage::Metrics, ProbeFailure::Status(500 | 502..)) => {
                self.ask_once(ProbePage::Health).await
            }
            _ => return,
        };
        match health {
            Err(ProbeFailure::Status(503)) => self.is_loading = true,
            // It says nothing, and is what it was.
            Err(ProbeFailure::Timeout | ProbeFailure::Broken) => {}
            _ => self.is_loading = false,
        }
    }

    async fn ask_once(&self, question: ProbePage) -> Result<Scraped, ProbeFailure> {
        let (url, max_bytes) = match (question, &self.pages.metrics) {
            (ProbePage::Metrics, Some(url)) => (url, MAX_PAGE),
            (ProbePage::Metrics, None) => return Err(ProbeFailure::Status(404)),
            (ProbePage::Health, _) => (&self.pages.health, MAX_LIST),
            (ProbePage::Models, _) => (&self.pages.models, MAX_LIST),
        };
        let body = self.get(url, max_bytes).await;
        match (question, body) {
            (ProbePage::Metrics, Ok(page)) => {
                Scraped::read(&page).map_err(|_| ProbeFailure::Garbage)
            }
            (ProbePage::Health | ProbePage::Models, Ok(_)) => Ok(Scraped::default()),
            // It requires a key that the control plane does not have; but it answers.
            (ProbePage::Models, Err(ProbeFailure::Status(status))) if status < 500 => {
                Ok(Scraped::default())
            }
            (_, Err(failure)) => Err(failure),
        }
    }

    async fn get(&self, url: &Url, max_bytes: usize) -> Result<Bytes, ProbeFailure> {
        let ProbeTarget { key, timeout, .. } = &self.target;
        let client = &self.engine.client;
        fetch::get(client, url, key.as_ref(), *timeout, max_bytes).await
    }

    /// The endpoint's models, when they are due and it answers.
    async fn models(&mut self, now: Instant) -> Option<Vec<ModelCard>> {
        if now < self.models_due {
            return None;
        }
        self.models_due = now
            + if self.has_adapters {
                ADAPTERS_EVERY
            } else {
                MODELS_EVERY
            };
        let body = self.get(&self.pages.models, MAX_LIST).await;
        match body.and_then(|body| models::read(&body).map_err(|_| ProbeFailure::Garbage)) {
            Ok(cards) => {
                self.has_adapters |= cards.iter().any(|card| card.parent.is_some());
                self.unknown_turns_left = UNKNOWN_TURNS;
                Some(cards)
            }
            // It knows no other page either: its models are not unknown, it has none.
            Err(ProbeFailure::Status(404)) if self.question == ProbePage::Models => {
                self.models_due = now;
                self.unknown_turns_left = self.unknown_turns_left.saturating_sub(1);
                (self.unknown_turns_left == 0).then(Vec::new)
            }
            Err(failure) => {
                self.shared
                    .metrics
                    .failed(ProbePage::Models.name(), failure);
                None
            }
        }
    }

    /// Sends the result. Returns whether the receiver still exists; one that is behind loses this
    /// result, not the next.
    fn send(&mut self, observation: ProbeResult) -> bool {
        let (had_models, had_pairing) =
            (observation.models.is_some(), observation.pairing.is_some());
        match self.shared.sink.try_send(observation) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.shared.metrics.dropped();
                if had_models {
                    self.models_due = Instant::now();
                }
                if had_pairing {
                    self.pairing.iter_mut().for_each(PairingProbe::repeat);
                }
                true
            }
        }
    }

    /// From the start of one turn to the start of the next: the interval give or take a tenth, so
    /// that endpoints do not fall into step.
    fn pause(&mut self) -> Duration {
        let stretch = 1 << self.timeouts.min(MAX_STRETCH.ilog2());
        self.target.interval.mul_f32(0.9 + 0.2 * self.rng.unit()) * stretch
    }
}

/// The client for a target.
fn client_of(
    clients: &EngineClients,
    target: &ProbeTarget,
) -> Result<EngineClient, NoEngineClient> {
    let ProbeTarget {
        address,
        trust,
        http2,
        ..
    } = target;
    if *http2 {
        clients.over_http2(address, trust)
    } else {
        clients.to(address, trust)
    }
}

// === ProbeUrls ===

impl ProbeUrls {
    fn of(engine: &EngineClient, metrics_path: Option<&str>) -> Result<Self, NoEngineClient> {
        Ok(Self {
            metrics: metrics_path.map(|path| engine.page(path)).transpose()?,
            health: engine.page("/health")?,
            models: engine.page("/v1/models")?,
        })
    }
}

// === ProbePage ===

impl ProbePage {
    fn first(pages: &ProbeUrls) -> Self {
        if pages.metrics.is_some() {
            Self::Metrics
        } else {
            Self::Health
        }
    }

    /// What to ask instead, when `failure` says that the endpoint does not know this question.
    fn instead(self, failure: ProbeFailure) -> Option<Self> {
        // llama.cpp without --metrics answers 501; a gateway in front may guard the page.
        let ProbeFailure::Status(401 | 403 | 404 | 405 | 501) = failure else {
            return None;
        };
        match self {
            Self::Metrics => Some(Self::Health),
            Self::Health => Some(Self::Models),
            Self::Models => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Metrics => "metrics",
            Self::Health => "health",
            Self::Models => "models",
        }
    }
}
