//! Prefill/decode pairs of simulated engines: what one hands over to the other, checked strictly.
//!
//! ```text
//!   vLLM's NIXL   prefill ─▶ PairNetwork::keep ─▶ kv_transfer_params ─▶ client ─▶ decode ─▶ PairNetwork::take
//!   SGLang        prefill ─▶ room ◀─ decode      both wait there, and the prompt's cache is moved
//! ```
//!
//! Engines of one process share a [`PairNetwork`], which has the side channel's place. What a real
//! engine would answer with stale memory, wait for for ever or die of, is an error here, and is
//! listed: a handoff that is used twice, late, or for a longer prompt, and a leg without its
//! partner.

mod rooms;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use self::rooms::Rooms;

/// How long a decode engine tries to reach a prefill engine that is gone.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// An engine's part in pairs.
#[derive(Clone, Debug)]
pub struct PairConfig {
    /// What it does.
    pub role: PairRole,
    /// What it is sent.
    pub protocol: PairProtocol,
    /// What it has in common with its partners.
    pub network: Arc<PairNetwork>,
    /// Tokens of a KV cache that are moved in a second.
    pub transfer_rate: f64,
    /// How long a prefill engine keeps a KV cache for a decode engine.
    pub lease: Duration,
    /// The port at which decode engines look for what a prefill engine keeps, if it is not the one
    /// that serves requests: nothing may listen there, as when a prefill engine dies after its
    /// answer.
    pub side_channel: Option<u16>,
}

/// What an engine does for a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairRole {
    /// Computes prompts.
    Prefill,
    /// Generates answers.
    Decode,
}

/// How the engines of a pair find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairProtocol {
    /// By `kv_transfer_params`, as vLLM's `NixlConnector`.
    VllmNixl,
    /// By a bootstrap room, as SGLang.
    Sglang,
}

/// What the engines of pairs have in common. Bounded by the requests that tests send.
#[derive(Debug, Default)]
pub struct PairNetwork {
    kept: Mutex<HashMap<String, KeptCache>>,
    rooms: Rooms,
    violations: Mutex<Vec<String>>,
}

/// A KV cache that a prefill engine keeps for a decode engine.
#[derive(Clone, Copy, Debug)]
struct KeptCache {
    tokens: usize,
    until: Instant,
    is_taken: bool,
}

/// One leg, before its request is read further.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PairLeg {
    /// Tokens of the prompt whose KV cache came from another engine.
    pub(crate) received: usize,
    /// The prompt's cache is to be kept for another engine.
    pub(crate) keeps: bool,
    /// Where the partner waits for the prompt.
    pub(crate) room: Option<u64>,
    /// The answer is cut after one token.
    pub(crate) is_prefill: bool,
}

/// A request that breaks the protocol: its status.
pub(crate) type RefusedLeg = u16;

#[derive(Deserialize, Default)]
#[serde(default)]
struct LegFields {
    stream: Option<bool>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    max_output_tokens: Option<u32>,
    kv_transfer_params: Option<TransferParams>,
    bootstrap_host: Option<String>,
    bootstrap_port: Option<u16>,
    bootstrap_room: Option<u64>,
}

#[derive(Deserialize)]
struct TransferParams {
    do_remote_decode: bool,
    do_remote_prefill: bool,
    remote_request_id: Option<String>,
    remote_host: Option<String>,
    remote_port: Option<u16>,
}

// === PairConfig ===

impl PairConfig {
    /// An engine of this role that moves a million tokens a second and keeps what it has for 30 s.
    #[must_use]
    pub fn new(role: PairRole, protocol: PairProtocol, network: &Arc<PairNetwork>) -> Self {
        Self {
            role,
            protocol,
            network: Arc::clone(network),
            transfer_rate: 1e6,
            lease: Duration::from_secs(30),
            side_channel: None,
        }
    }

    /// Checks the request with this body, and waits for what the other engine hands over.
    ///
    /// # Errors
    /// The status of the answer, if the request cannot be served.
    pub(crate) async fn begin(&self, body: &[u8], scale: f64) -> Result<PairLeg, RefusedLeg> {
        let fields: LegFields = serde_json::from_slice(body).unwrap_or_default();
        match (self.protocol, self.role) {
            (PairProtocol::VllmNixl, PairRole::Prefill) => self.nixl_prefill(&fields),
            (PairProtocol::VllmNixl, PairRole::Decode) => self.nixl_decode(fields, scale).await,
            (PairProtocol::Sglang, role) => self.sglang(role, &fields, scale).await,
        }
    }

    fn nixl_prefill(&self, fields: &LegFields) -> Result<PairLeg, RefusedLeg> {
        let limits = [
            fields.max_completion_tokens,
            fields.max_tokens,
            fields.max_output_tokens,
        ];
        let is_one_token = limits.into_iter().flatten().all(|limit| limit == 1)
            && limits.iter().any(Option::is_some);
        let params = fields.kv_transfer_params.as_ref();
        let asks =
            params.is_some_and(|params| params.do_remote_decode && !params.do_remote_prefill);
        if !asks || !is_one_token || fields.stream == Some(true) {
            let violation = "a prefill engine got a request that is no prefill leg";
            return Err(self.network.violated(violation, 500));
        }
        Ok(PairLeg {
            keeps: true,
            is_prefill: true,
            ..PairLeg::default()
        })
    }

    async fn nixl_decode(&self, fields: LegFields, scale: f64) -> Result<PairLeg, RefusedLeg> {
        let Some(params) = fields.kv_transfer_params else {
            // It computes the prompt itself.
            return Ok(PairLeg::default());
        };
        let TransferParams {
            do_remote_prefill: true,
            remote_request_id: Some(id),
            remote_host: Some(host),
            remote_port: Some(port),
            ..
        } = params
        else {
            let violation = "a decode engine got parameters with a part missing";
            return Err(self.network.violated(violation, 500));
        };
        if TcpStream::connect((host.as_str(), port)).await.is_err() {
            sleep(HANDSHAKE.mul_f64(scale)).await;
            return Err(500);
        }
        let tokens = self.network.take(&id)?;
        sleep(self.transfer(tokens, scale)).await;
        Ok(PairLeg {
            received: tokens,
            ..PairLeg::default()
        })
    }

    async fn sglang(
        &self,
        role: PairRole,
        fields: &LegFields,
        scale: f64,
    ) -> Result<PairLeg, RefusedLeg> {
        let Some(room) = fields.bootstrap_room else {
            return Err(self.network.violated("a request without a room", 400));
        };
        if fields.bootstrap_host.is_none() || fields.bootstrap_port.is_none() {
            return Err(self
                .network
                .violated("a request without a bootstrap address", 400));
        }
        let rooms = &self.network.rooms;
        let is_prefill = role == PairRole::Prefill;
        if !rooms.enter(room, is_prefill) {
            let violation = "a room that another request of the same role is in";
            return Err(self.network.violated(violation, 500));
        }
        let received = if is_prefill {
            0
        } else {
            let tokens = rooms.prefilled(room).await;
            sleep(self.transfer(tokens, scale)).await;
            tokens
        };
        Ok(PairLeg {
            received,
            room: Some(room),
            is_prefill,
            ..PairLeg::default()
        })
    }

    fn transfer(&self, tokens: usize, scale: f64) -> Duration {
        Duration::from_secs_f64(tokens as f64 / self.transfer_rate * scale)
    }

    /// A prompt of this length is computed: what the engine at `port` answers of it, if anything.
    pub(crate) fn computed(
        &self,
        leg: PairLeg,
        tokens: usize,
        id: &str,
        port: u16,
    ) -> Option<String> {
        if let Some(room) = leg.room.filter(|_| leg.is_prefill) {
            self.network.rooms.finish(room, tokens);
        }
        leg.keeps.then(|| {
            self.network
                .keep(tokens, id, self.side_channel.unwrap_or(port), self.lease)
        })
    }
}

// === PairNetwork ===

impl PairNetwork {
    /// What broke the protocol so far.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    /// KV caches that prefill engines keep for decode engines now.
    #[must_use]
    pub fn kept(&self) -> usize {
        let now = Instant::now();
        let kept = self.kept.lock();
        let held = kept
            .values()
            .filter(|kept| !kept.is_taken && kept.until > now);
        held.count()
    }

    /// Handoffs that were taken over.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.kept
            .lock()
            .values()
            .filter(|kept| kept.is_taken)
            .count()
    }

    /// Decode legs that wait in a room.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.rooms.waiting()
    }

    pub(crate) fn violated(&self, violation: &str, status: RefusedLeg) -> RefusedLeg {
        self.violations.lock().push(violation.to_owned());
        status
    }

    /// Keeps a KV cache, and returns the parameters by which it can be taken, as vLLM 0.32 writes
    /// them.
    fn keep(&self, tokens: usize, id: &str, port: u16, lease: Duration) -> String {
        let mut kept = self.kept.lock();
        let id = format!("cmpl-{id}-0-{:08x}", kept.len());
        let params = format!(
            r#"{{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[10,11]],"remote_engine_id":"sim","remote_request_id":"{id}","remote_host":"127.0.0.1","remote_port":{port},"tp_size":1,"dcp_size":1,"pp_size":1,"remote_num_tokens":{tokens},"remote_blocks_expiry_time":null,"transfer_mode":"pull","remote_prefill_cached_tokens":0}}"#
        );
        let cache = KeptCache {
            tokens,
            until: Instant::now() + lease,
            is_taken: false,
        };
        kept.insert(id, cache);
        params
    }

    fn take(&self, id: &str) -> Result<usize, RefusedLeg> {
        let mut kept = self.kept.lock();
        let problem = match kept.get_mut(id) {
            None => "a decode leg without a prefill leg",
            Some(cache) if cache.is_taken => "a handoff that is used twice",
            Some(cache) if cache.until <= Instant::now() => "a handoff after its lease",
            Some(cache) => {
                cache.is_taken = true;
                return Ok(cache.tokens);
            }
        };
        Err(self.violated(problem, 500))
    }
}
