//! One engine's part in pairs, for one life of the engine: what it keeps, who meets at it, and what
//! broke the protocol.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::kept_caches::{ComputedPrompt, KeptCaches};
use super::rooms::Rooms;
use super::violation::{PairViolation, ViolationCounts};
use super::{PairConfig, PairProtocol, PairRole};

/// See the module.
#[derive(Debug)]
pub(crate) struct PairEngine {
    pub(crate) role: PairRole,
    pub(crate) protocol: PairProtocol,
    pub(crate) identity: EngineIdentity,
    pub(crate) violations: ViolationCounts,
    pub(super) rooms: Rooms,
    /// Where partners find it.
    pub(super) host: String,
    pub(super) port: u16,
    lease: Duration,
    transfer_rate: f64,
    /// Its data-parallel ranks.
    pub(super) ranks: u32,
    pub(super) ends_at_once: bool,
    /// Factor on all simulated durations.
    pub(super) scale: f64,
    kept: Mutex<KeptCaches>,
    /// The names under which it keeps prompts for the rooms of transfers.
    pushed: Mutex<HashMap<u64, String>>,
    keeps_more: Notify,
    waiting: AtomicUsize,
    receiving: AtomicUsize,
    /// Prompts that were handed over in a room.
    moved: AtomicU64,
}

/// What two engines compare before one reads the memory of the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EngineIdentity {
    /// Another one in each life of an engine.
    pub(crate) engine_id: String,
    pub(crate) version: String,
    pub(crate) model: String,
}

/// What became of KV caches for decode engines.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct HandoffFigures {
    /// Are kept now.
    pub(crate) kept: usize,
    /// Were taken over.
    pub(crate) taken: u64,
    /// Were not, within their lease.
    pub(crate) expired: u64,
    /// Decode legs that wait at another engine for a prompt.
    pub(crate) waiting: usize,
    /// Decode legs whose KV cache is on its way.
    pub(crate) receiving: usize,
}

/// A leg at one of its stages, counted there until this is dropped.
pub(super) struct CountedLeg<'a>(&'a AtomicUsize);

impl PairEngine {
    pub(crate) fn new(
        config: &PairConfig,
        identity: EngineIdentity,
        address: (String, u16),
        (ranks, scale): (u32, f64),
    ) -> Self {
        let PairConfig {
            role,
            protocol,
            transfer_rate,
            lease,
            ends_at_once,
            ..
        } = *config;
        let (host, port) = address;
        Self {
            role,
            protocol,
            identity,
            violations: ViolationCounts::default(),
            rooms: Rooms::default(),
            host,
            port,
            lease,
            transfer_rate,
            ranks,
            ends_at_once,
            scale,
            kept: Mutex::default(),
            pushed: Mutex::default(),
            keeps_more: Notify::new(),
            waiting: AtomicUsize::new(0),
            receiving: AtomicUsize::new(0),
            moved: AtomicU64::new(0),
        }
    }

    /// The port of its side channel, or of the engine if it has none.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Keeps a prompt for the time of a lease, and returns the name by which it can be taken.
    pub(super) fn keep(&self, prompt: ComputedPrompt, request: &str) -> String {
        let until = Instant::now() + self.lease;
        let name = self.kept.lock().keep(prompt, request, until);
        self.keeps_more.notify_one();
        name
    }

    /// Keeps a prompt for the decode engine that is or will be in this room.
    pub(super) fn keep_for(&self, room: u64, prompt: ComputedPrompt, request: &str) {
        let name = self.keep(prompt, request);
        self.pushed.lock().insert(room, name);
    }

    /// The decode engine in this room has the prompt that was kept for it, if one was.
    pub(super) fn moved(&self, room: u64) {
        if let Some(name) = self.pushed.lock().remove(&room) {
            // Of one whose lease is over nothing is kept.
            let _expired = self.kept.lock().take(&name, Instant::now());
        } else {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives a kept prompt to the engine with this identity.
    ///
    /// # Errors
    /// Why it cannot have it.
    pub(super) fn give(
        &self,
        name: &str,
        to: &EngineIdentity,
    ) -> Result<ComputedPrompt, PairViolation> {
        self.accept(to)?;
        self.kept.lock().take(name, Instant::now())
    }

    /// Checks that an engine with this identity can be a partner.
    ///
    /// # Errors
    /// What it differs in.
    pub(super) fn accept(&self, other: &EngineIdentity) -> Result<(), PairViolation> {
        if self.identity.model != other.model {
            return Err(PairViolation::OtherModel);
        }
        // vLLM compares releases in the handshake of NIXL; SGLang does not.
        let is_same = self.identity.version == other.version;
        match self.protocol {
            PairProtocol::VllmNixl if !is_same => Err(PairViolation::OtherVersion),
            _ => Ok(()),
        }
    }

    /// Frees what no engine has taken over in time, for ever.
    pub(crate) async fn expire_leases(&self) {
        loop {
            let next = {
                let mut kept = self.kept.lock();
                kept.expire(Instant::now());
                kept.next_expiry(Instant::now())
            };
            match next {
                Some(next) => sleep(next).await,
                None => self.keeps_more.notified().await,
            }
        }
    }

    /// Waits as long as the KV cache of this many tokens is on its way.
    pub(super) async fn transfer(&self, tokens: usize) {
        let _receiving = CountedLeg::at(&self.receiving);
        let seconds = tokens as f64 / self.transfer_rate * self.scale;
        sleep(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)).await;
    }

    /// Counts a leg that waits for its partner.
    pub(super) fn wait(&self) -> CountedLeg<'_> {
        CountedLeg::at(&self.waiting)
    }

    pub(crate) fn handoffs(&self) -> HandoffFigures {
        let kept = self.kept.lock();
        HandoffFigures {
            kept: kept.kept(),
            taken: kept.taken() + self.moved.load(Ordering::Relaxed),
            expired: kept.expired(),
            waiting: self.waiting.load(Ordering::Relaxed),
            receiving: self.receiving.load(Ordering::Relaxed),
        }
    }

    /// The engine ended, and with it what it kept.
    pub(crate) fn close(&self) {
        self.kept.lock().clear();
        self.pushed.lock().clear();
    }
}

impl<'a> CountedLeg<'a> {
    fn at(stage: &'a AtomicUsize) -> Self {
        stage.fetch_add(1, Ordering::Relaxed);
        Self(stage)
    }
}

impl Drop for CountedLeg<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
