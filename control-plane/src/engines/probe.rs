//! The task that keeps asking one endpoint how it is.
//!
//! ```text
//!   wait (jittered) ─▶ slot ─▶ metrics ─404─▶ health ─404─▶ models ─▶ Observation ─▶ reader
//!        ▲                        └── 200 ────────────────────▲                        │
//!        └────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! An endpoint without metrics is healthy as long as it answers at all: its signals are off, and a cheaper question
//! takes the place of the scrape. `/v1/models` is asked at first contact, soon after a failure has passed, and now and
//! then.

use std::{sync::Arc, time::Duration};

use hermes_core::rng::SeededRng;
use reqwest::{Client, Url};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, sleep_until},
};

use super::{CollectorMetrics, Failure, ModelCard, Observation, Scraped, Target, fetch, models};

/// Largest metrics page in bytes. A server with hundreds of ranks stays far below.
const MAX_PAGE: usize = 4 << 20;

/// Largest model list in bytes.
const MAX_LIST: usize = 1 << 20;

/// How often a server's models are asked for while nothing happens.
const MODELS_EVERY: Duration = Duration::from_secs(30);

/// How often a server without metrics is asked again whether it has some.
const METRICS_AGAIN: Duration = Duration::from_secs(60);

/// First scrapes of endpoints that appear together spread over this time.
const SPREAD: Duration = Duration::from_millis(250);

/// A server that hangs holds a slot for its whole timeout, so it is asked less often: up to this many intervals.
const MAX_STRETCH: u32 = 8;

/// What all probes share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) slots: Arc<Semaphore>,
    pub(super) sink: mpsc::Sender<Observation>,
    pub(super) metrics: CollectorMetrics,
}

/// The state of one endpoint's questions.
#[derive(Debug)]
pub(super) struct Probe {
    shared: Shared,
    target: Target,
    pages: Pages,
    question: Question,
    metrics_again: Instant,
    models_due: Instant,
    timeouts: u32,
    dice: SeededRng,
}

/// Where the endpoint answers.
#[derive(Debug)]
struct Pages {
    metrics: Option<Url>,
    health: Url,
    models: Url,
}

/// What is asked at every turn: the first that the endpoint knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    Metrics,
    Health,
    Models,
}

// === Probe ===

impl Probe {
    /// `None` when the target's URL is none: its owner has checked it, and there is nothing to ask.
    pub(super) fn new(shared: Shared, target: Target, seed: u64) -> Option<Self> {
        let pages = Pages::of(&target)?;
        let now = Instant::now();
        Some(Self {
            shared,
            dice: SeededRng::new(seed ^ target.id.0),
            question: Question::first(&pages),
            pages,
            target,
            metrics_again: now,
            models_due: now,
            timeouts: 0,
        })
    }

    /// Asks until it is aborted or nobody reads the answers.
    pub(super) async fn run(mut self) {
        let mut next = Instant::now() + SPREAD.min(self.target.interval).mul_f32(self.dice.unit());
        loop {
            sleep_until(next).await;
            let Ok(slot) = Arc::clone(&self.shared.slots).acquire_owned().await else {
                return;
            };
            let started = Instant::now();
            let observation = self.observe(started).await;
            drop(slot);
            if !self.tell(observation) {
                return;
            }
            next = started + self.pause();
        }
    }

    async fn observe(&mut self, started: Instant) -> Observation {
        let outcome = self.ask().await;
        let at = Instant::now();
        match &outcome {
            Ok(scraped) => {
                self.shared
                    .metrics
                    .succeeded(&self.target.url, at - started);
                self.shared
                    .metrics
                    .read(scraped.refused, scraped.skipped_lines);
                self.timeouts = 0;
            }
            Err(failure) => {
                // It may come back as another server with other models.
                self.models_due = at;
                self.timeouts = if *failure == Failure::Timeout {
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
        Observation {
            endpoint: self.target.id,
            at,
            outcome,
            models,
        }
    }

    /// Asks the first question that the endpoint knows.
    async fn ask(&mut self) -> Result<Scraped, Failure> {
        if self.question != Question::Metrics && Instant::now() >= self.metrics_again {
            self.question = Question::first(&self.pages);
        }
        loop {
            let answer = self.ask_once(self.question).await;
            let Err(failure) = answer else {
                return answer;
            };
            let Some(next) = self.question.instead(failure) else {
                self.shared.metrics.failed(self.question.name(), failure);
                return Err(failure);
            };
            if self.question == Question::Metrics {
                self.metrics_again = Instant::now() + METRICS_AGAIN;
            }
            self.question = next;
        }
    }

    async fn ask_once(&self, question: Question) -> Result<Scraped, Failure> {
        let (url, max_bytes) = match (question, &self.pages.metrics) {
            (Question::Metrics, Some(url)) => (url, MAX_PAGE),
            (Question::Metrics, None) => return Err(Failure::Status(404)),
            (Question::Health, _) => (&self.pages.health, MAX_LIST),
            (Question::Models, _) => (&self.pages.models, MAX_LIST),
        };
        let body = fetch::get(&self.shared.client, url, self.target.timeout, max_bytes).await;
        match (question, body) {
            (Question::Metrics, Ok(page)) => Scraped::read(&page).map_err(|_| Failure::Garbage),
            (Question::Health | Question::Models, Ok(_)) => Ok(Scraped::default()),
            // It wants a key that nobody gave the control plane; but it is there.
            (Question::Models, Err(Failure::Status(status))) if status < 500 => {
                Ok(Scraped::default())
            }
            (_, Err(failure)) => Err(failure),
        }
    }

    /// The endpoint's models, when it is time to ask and it tells.
    async fn models(&mut self, now: Instant) -> Option<Vec<ModelCard>> {
        if now < self.models_due {
            return None;
        }
        self.models_due = now + MODELS_EVERY;
        let body = fetch::get(
            &self.shared.client,
            &self.pages.models,
            self.target.timeout,
            MAX_LIST,
        )
        .await;
        match body.and_then(|body| models::read(&body).map_err(|_| Failure::Garbage)) {
            Ok(cards) => Some(cards),
            Err(failure) => {
                self.shared.metrics.failed(Question::Models.name(), failure);
                None
            }
        }
    }

    /// Whether anybody still listens. A reader that is behind loses this observation, not the next.
    fn tell(&mut self, observation: Observation) -> bool {
        let had_models = observation.models.is_some();
        match self.shared.sink.try_send(observation) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.shared.metrics.dropped();
                if had_models {
                    self.models_due = Instant::now();
                }
                true
            }
        }
    }

    /// From the start of one turn to the start of the next: the interval give or take a tenth, so that endpoints do
    /// not fall into step.
    fn pause(&mut self) -> Duration {
        let stretch = 1 << self.timeouts.min(MAX_STRETCH.ilog2());
        self.target.interval.mul_f32(0.9 + 0.2 * self.dice.unit()) * stretch
    }
}

// === Pages ===

impl Pages {
    fn of(target: &Target) -> Option<Self> {
        let base = target.url.trim_end_matches('/');
        let page = |path: &str| Url::parse(&format!("{base}{path}")).ok();
        Some(Self {
            metrics: match &target.metrics_path {
                Some(path) => Some(page(path)?),
                None => None,
            },
            health: page("/health")?,
            models: page("/v1/models")?,
        })
    }
}

// === Question ===

impl Question {
    fn first(pages: &Pages) -> Self {
        if pages.metrics.is_some() {
            Self::Metrics
        } else {
            Self::Health
        }
    }

    /// What to ask instead, when `failure` says that the endpoint does not know this question.
    fn instead(self, failure: Failure) -> Option<Self> {
        // llama.cpp without --metrics answers 501; a gateway in front may guard the page.
        let Failure::Status(401 | 403 | 404 | 405 | 501) = failure else {
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
