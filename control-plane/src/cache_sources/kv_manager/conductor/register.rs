//! Registers at a conductor where the engines of a pool publish their events, and keeps the
//! registrations current.
//!
//! ```text
//!   endpoints of the pool ─▶ wanted ─┐
//!                                    ├─▶ what is missing: POST /register     what is gone: POST /unregister
//!   GET /services ─────────▶ known ──┘
//! ```
//!
//! Asked again every so often, because a conductor that was restarted has forgotten everything.
//! Only what this process once wanted is ever unregistered: other pools, and people, have rows of
//! their own there. Replicas of the control plane want the same and do not get in each other's way.
//!
//! It runs beside everything else, with a time limit for each call. No request waits for it.

mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use hermes_core::snapshot::Pool;
use hermes_runtime::tasks::RestartedTask;
use reqwest::{Client, StatusCode, Url, header};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{Conductor, Encoding, LookupOutcome};
use crate::{
    bounded_body::read_body,
    cache_sources::{kv_manager::names::host, lookup_client::LookupFault},
};

/// How often all is compared.
const INTERVAL: Duration = Duration::from_secs(10);

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Most rows of one pool: endpoints times ranks.
const MAX_ROWS: usize = 10_000;

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 8 << 20;

/// Where engines publish their events, and what a conductor has to know of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Port of the first rank's publisher; each further rank has the next one.
    pub port: u16,
    /// Port of the first rank's replay socket, if there is one.
    pub replay_port: Option<u16>,
    /// Data-parallel ranks of each endpoint.
    pub ranks: u32,
    /// Whose events.
    pub source: Source,
    /// The algorithm of the engine's block hashes; sent by the msgpack dialect only.
    pub algorithm: Arc<str>,
    /// The engine's `PYTHONHASHSEED`; sent by the msgpack dialect only.
    pub hash_seed: Arc<str>,
}

/// Whose events a conductor is to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// vLLM.
    #[default]
    Vllm,
    /// SGLang.
    Sglang,
}

/// A row of the conductor's table: an instance and a rank.
type RegistrationRow = (Arc<str>, u32);

/// The rows that are wanted, each with the host that publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct WantedRows {
    model: Arc<str>,
    block_size: u32,
    rows: BTreeMap<RegistrationRow, Arc<str>>,
}

/// The pool's side of a [`EngineRegistration`]'s work.
#[derive(Debug)]
pub(in crate::cache_sources::kv_manager) struct EngineRegistration {
    conductor: Conductor,
    registration: Registration,
    wanted: watch::Sender<Arc<WantedRows>>,
    _reconciler: RestartedTask,
}

/// The task.
#[derive(Clone)]
struct RegistrationReconciler {
    client: Client,
    /// Of the lookup; the other calls are its neighbors.
    url: Url,
    conductor: Conductor,
    registration: Registration,
    wanted: watch::Receiver<Arc<WantedRows>>,
    /// Rows that this process wanted at some time, and whether the conductor took them.
    mine: BTreeMap<RegistrationRow, bool>,
    /// The last round failed, and that was logged.
    complained: bool,
}

// === Registration ===

impl Default for Registration {
    fn default() -> Self {
        Self {
            port: 5557,
            replay_port: None,
            ranks: 1,
            source: Source::Vllm,
            algorithm: "sha256_cbor".into(),
            hash_seed: "0".into(),
        }
    }
}

// === EngineRegistration ===

impl EngineRegistration {
    /// Begins to register at the conductor whose lookup is at `url`, until it is dropped.
    pub(in crate::cache_sources::kv_manager) fn begin(
        conductor: &Conductor,
        registration: &Registration,
        client: Client,
        url: Url,
    ) -> Self {
        let (sender, wanted) = watch::channel(Arc::default());
        let (conductor, registration) = (conductor.clone(), registration.clone());
        let reconciler = RegistrationReconciler {
            client,
            url,
            conductor: conductor.clone(),
            registration: registration.clone(),
            wanted,
            mine: BTreeMap::new(),
            complained: false,
        };
        Self {
            conductor,
            registration,
            wanted: sender,
            _reconciler: RestartedTask::spawn("registrations", move || reconciler.clone().run()),
        }
    }

    /// The endpoints of `pool` are to be registered, and no others. Nothing is while model or block
    /// size are unknown.
    pub(in crate::cache_sources::kv_manager) fn follow(
        &self,
        pool: &Pool,
        block_size: Option<u32>,
    ) {
        let wanted = self.wanted_of(pool, block_size).unwrap_or_default();
        self.wanted.send_if_modified(|known| {
            let changed = **known != wanted;
            if changed {
                *known = Arc::new(wanted);
            }
            changed
        });
    }

    fn wanted_of(&self, pool: &Pool, block_size: Option<u32>) -> Option<WantedRows> {
        let base = || {
            pool.models
                .iter()
                .find(|model| model.parent.is_none())
                .map(|model| Arc::clone(&model.name))
        };
        let model = self.conductor.model.clone().or_else(base)?;
        let block_size = self.conductor.block_size.or(block_size)?;
        let mut rows = BTreeMap::new();
        for endpoint in &pool.endpoints {
            let authority = endpoint.address.authority();
            let alias = self
                .conductor
                .instances
                .iter()
                .find(|(_, known)| **known == **authority);
            let instance: Arc<str> =
                alias.map_or_else(|| Arc::clone(authority), |(alias, _)| Arc::clone(alias));
            let host: Arc<str> = host(authority).into();
            rows.extend(
                (0..self.registration.ranks)
                    .map(|rank| ((Arc::clone(&instance), rank), Arc::clone(&host))),
            );
        }
        if rows.len() > MAX_ROWS {
            return None;
        }
        Some(WantedRows {
            model,
            block_size,
            rows,
        })
    }
}

// === RegistrationReconciler ===

impl RegistrationReconciler {
    async fn run(mut self) {
        loop {
            let wanted = Arc::clone(&self.wanted.borrow_and_update());
            let round = self.reconcile(&wanted).await;
            self.log(round, wanted.rows.len());
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return },
                () = sleep(INTERVAL) => {}
            }
        }
    }

    /// Makes the conductor's table right, as far as it lets us; gives up at the first call that
    /// fails.
    async fn reconcile(&mut self, wanted: &WantedRows) -> Result<(), LookupOutcome> {
        for row in wanted.rows.keys() {
            self.mine.entry(row.clone()).or_insert(false);
        }
        if self.mine.is_empty() {
            return Ok(());
        }
        if let Some(known) = self.services().await? {
            self.mine
                .iter_mut()
                .for_each(|(row, taken)| *taken = known.contains(row));
        }
        for (row, host) in &wanted.rows {
            if self.mine.get(row) != Some(&true) {
                self.register(wanted, row, host).await?;
                self.mine.insert(row.clone(), true);
            }
        }
        let gone: Vec<RegistrationRow> = self
            .mine
            .keys()
            .filter(|row| !wanted.rows.contains_key(*row))
            .cloned()
            .collect();
        for row in gone {
            if self.mine.get(&row) == Some(&true) {
                self.unregister(&row).await?;
            }
            self.mine.remove(&row);
        }
        Ok(())
    }

    /// The conductor's registrations; `None` when it has no such endpoint.
    async fn services(&self) -> Result<Option<BTreeSet<RegistrationRow>>, LookupOutcome> {
        let request = self
            .client
            .get(self.neighbor("services"))
            .header(header::ACCEPT, self.conductor.content_type());
        let (status, answer) = call(request).await?;
        match status {
            StatusCode::OK => {
                wire::services(self.conductor.encoding, &self.conductor.tenant, &answer).map(Some)
            }
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(None),
            other => Err(LookupOutcome::Status(other.as_u16())),
        }
    }

    async fn register(
        &self,
        wanted: &WantedRows,
        row: &RegistrationRow,
        host: &str,
    ) -> Result<(), LookupOutcome> {
        let body = wire::register(&self.conductor, &self.registration, wanted, row, host)?;
        match self.post("register", body).await? {
            StatusCode::OK => Ok(()),
            other => Err(LookupOutcome::Status(other.as_u16())),
        }
    }

    async fn unregister(&self, row: &RegistrationRow) -> Result<(), LookupOutcome> {
        let body = wire::unregister(&self.conductor, &self.registration, row)?;
        match self.post("unregister", body).await? {
            // Another replica was faster.
            StatusCode::OK | StatusCode::NOT_FOUND => Ok(()),
            other => Err(LookupOutcome::Status(other.as_u16())),
        }
    }

    async fn post(&self, name: &str, body: bytes::Bytes) -> Result<StatusCode, LookupOutcome> {
        let content_type = self.conductor.content_type();
        let request = self
            .client
            .post(self.neighbor(name))
            .header(header::CONTENT_TYPE, content_type)
            .body(body);
        call(request).await.map(|(status, _)| status)
    }

    /// The call of this name beside the lookup.
    fn neighbor(&self, name: &str) -> Url {
        self.url.join(name).unwrap_or_else(|_| self.url.clone())
    }

    /// Says once that it fails, and once that it works again.
    fn log(&mut self, round: Result<(), LookupOutcome>, rows: usize) {
        let url = self.url.as_str();
        match round {
            Ok(()) if self.complained => {
                tracing::info!(url, rows, "event publishers are registered again");
            }
            Err(outcome) if !self.complained => {
                tracing::warn!(
                    url,
                    rows,
                    why = outcome.name(),
                    "event publishers cannot be registered; trying again"
                );
            }
            Ok(()) | Err(_) => {}
        }
        self.complained = round.is_err();
    }
}

/// Status and body of an answer.
async fn call(request: reqwest::RequestBuilder) -> Result<(StatusCode, Bytes), LookupOutcome> {
    let answered = async {
        let response = request
            .send()
            .await
            .map_err(|error| LookupFault::of(&error))?;
        let status = response.status();
        let body = read_body(response, MAX_ANSWER).await;
        Ok((status, body.map_err(LookupFault::from)?))
    };
    timeout(PATIENCE, answered)
        .await
        .unwrap_or(Err(LookupOutcome::Timeout))
}
