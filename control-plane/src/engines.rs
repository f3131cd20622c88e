//! Probes every endpoint: load, cache, models, and whether it answers at all.
//!
//! ```text
//!   targets ─▶ EngineProbes ─▶ one Probe per endpoint ─▶ ProbeResult ─▶ bounded channel ─▶ the cluster's owner
//!                                   │
//!                     fetch ─▶ exposition ─▶ signals (by the table in engines)
//! ```
//!
//! Invariants:
//! * an endpoint has at most one question open, and those of a pool together at most
//!   [`ProbeSettings::concurrency`]: a pool whose endpoints hang does not delay the others;
//! * a signal that is missing, refused or unreadable is absent and never zero;
//! * nothing is decided here: whether two refused connections take an endpoint out is for the
//!   reader to say.

mod clients;
pub mod exposition;
pub(crate) mod fetch;
mod key;
mod metric_names;
mod metrics;
pub mod models;
mod pairing;
mod pairing_probe;
mod probe;
mod signals;

use std::{collections::HashMap, sync::Arc, time::Duration};

use hermes_core::{address::ServerAddress, policy::EndpointTrust, snapshot::EndpointId};
use hermes_runtime::tasks::RestartedTask;
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};

pub(crate) use self::clients::{EngineClient, EngineClients, NoEngineClient};
use self::probe::{Probe, ProbeContext};
pub use self::{
    fetch::ProbeFailure,
    key::EngineKey,
    metrics::ScrapeMetrics,
    models::ModelCard,
    pairing::{NotAStatement, PairingQuestion, PairingStatement},
    signals::{Adapters, CacheInfo, NotAnExposition, Scraped},
};

/// Runs one probe per endpoint. Dropping it ends them all.
#[derive(Debug)]
pub struct EngineProbes {
    shared: ProbeContext,
    settings: ProbeSettings,
    /// Questions that each pool may have open yet.
    slots: HashMap<Arc<str>, Arc<Semaphore>>,
    running: HashMap<EndpointId, RunningProbe>,
}

/// How a collector works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeSettings {
    /// Questions of one pool that are open at once; at least 1.
    pub concurrency: usize,
    /// Decides the jitter of all schedules.
    pub seed: u64,
}

/// One endpoint to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    /// Whose answers these will be.
    pub id: EndpointId,
    /// Its pool.
    pub pool: Arc<str>,
    /// Where it is.
    pub address: ServerAddress,
    /// Who may sign its certificate.
    pub trust: EndpointTrust,
    /// It is spoken to over HTTP/2, if its address is not secured.
    pub http2: bool,
    /// Where its metrics are, beginning with a slash; `None` when it has none.
    pub metrics_path: Option<Arc<str>>,
    /// The key that it may want.
    pub key: Option<EngineKey>,
    /// What it is asked for pairs, if anything.
    pub pairing: Option<PairingQuestion>,
    /// From one question to the next.
    pub interval: Duration,
    /// How long one question may take.
    pub timeout: Duration,
}

/// What one turn at one endpoint brought.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeResult {
    /// Who was asked.
    pub endpoint: EndpointId,
    /// Its pool.
    pub pool: Arc<str>,
    /// When the answer, or its failure, was known.
    pub at: Instant,
    /// What it said about itself; all absent for a server without metrics, which is healthy as long
    /// as it answers.
    pub outcome: Result<Scraped, ProbeFailure>,
    /// Its health page answered 503 when it was asked last: it is up, and serves nothing yet, as
    /// while it loads a model.
    pub is_loading: bool,
    /// Its models, if they were requested in this turn and it answered. `None` means neither.
    pub models: Option<Vec<ModelCard>>,
    /// What it states of its part in pairs, if that is another than in the results before.
    pub pairing: Option<PairingStatement>,
}

#[derive(Debug)]
struct RunningProbe {
    target: ProbeTarget,
    _task: RestartedTask,
}

// === EngineProbes ===

impl EngineProbes {
    /// A collector without targets that sends what it learns to `sink`.
    ///
    /// # Errors
    /// When the process has no usable TLS configuration.
    pub fn new(
        settings: ProbeSettings,
        metrics: ScrapeMetrics,
        sink: mpsc::Sender<ProbeResult>,
    ) -> Result<Self, reqwest::Error> {
        let clients = fetch::clients()?;
        let shared = ProbeContext {
            clients,
            sink,
            metrics,
        };
        Ok(Self {
            shared,
            settings,
            slots: HashMap::new(),
            running: HashMap::new(),
        })
    }

    /// Asks exactly these from now on. Probes of targets that did not change go on undisturbed.
    ///
    /// Must be called inside a Tokio runtime.
    pub fn set(&mut self, targets: Vec<ProbeTarget>) {
        let mut before = std::mem::take(&mut self.running);
        let mut slots = std::mem::take(&mut self.slots);
        for target in &targets {
            if !self.slots.contains_key(&target.pool) {
                let known = slots.remove(&target.pool);
                let known = known.unwrap_or_else(|| self.settings.slots());
                self.slots.insert(Arc::clone(&target.pool), known);
            }
        }
        for target in targets {
            let kept = before
                .remove(&target.id)
                .filter(|running| running.target == target);
            let Some(running) = kept.or_else(|| self.start(target)) else {
                continue;
            };
            self.running.insert(running.target.id, running);
        }
        for gone in before.into_values() {
            self.shared.metrics.forget(&gone.target.address);
        }
    }

    /// How many endpoints are asked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether there is none to ask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    fn start(&self, target: ProbeTarget) -> Option<RunningProbe> {
        let slots = Arc::clone(self.slots.get(&target.pool)?);
        let probe = Probe::new(
            self.shared.clone(),
            slots,
            target.clone(),
            self.settings.seed,
        );
        let probe = probe.inspect_err(|error| {
            let (endpoint, url) = (target.id, &target.address);
            tracing::warn!(%endpoint, %url, %error, "endpoint is not asked for its state");
        });
        let probe = probe.ok()?;
        Some(RunningProbe {
            target,
            _task: RestartedTask::spawn("probe", move || probe.clone().run()),
        })
    }
}

// === ProbeSettings ===

impl ProbeSettings {
    /// The slots of one pool.
    fn slots(self) -> Arc<Semaphore> {
        let concurrency = self.concurrency.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Semaphore::new(concurrency))
    }
}

impl Default for ProbeSettings {
    fn default() -> Self {
        Self {
            concurrency: 64,
            seed: 0,
        }
    }
}

#[cfg(test)]
mod tests;
