//! Prefill/decode pairs of simulated engines: what one hands over to the other, checked strictly.
//!
//! ```text
//!   vLLM's NIXL   prefill keeps the prompt ─▶ kv_transfer_params ─▶ router ─▶ decode asks for it ─┐
//!   TensorRT-LLM  the same, by disaggregated_params                                            ──┤
//!   SGLang        prefill enters a room                                       decode enters it ──┤
//!   Mooncake      the same, and decode looks for the engine at the bootstrap server's /query   ──┤
//!                    ▲                                                                            │
//!                    └────────────────── side channel of the prefill engine ◀─────────────────────┘
//! ```
//!
//! Engines meet over sockets only, in one process or in several. What a real engine would answer
//! with stale memory, wait for for ever or die of, is an error here and is counted by
//! [`PairViolation`]: at the engine that got the request. Each protocol is a file that says what a
//! request of each role has to have, what it waits for, and what it is answered.

mod args;
mod bootstrap_server;
mod engine;
mod fields;
mod kept_caches;
mod network;
mod rooms;
mod sglang;
mod side_channel;
mod trtllm;
mod violation;
mod vllm_mooncake;
mod vllm_nixl;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

pub(crate) use self::args::PairArgs;
pub(crate) use self::engine::{EngineIdentity, PairEngine};
use self::fields::LegFields;
pub(crate) use self::kept_caches::{ComputedPrompt, HeldMemory};
pub use self::network::PairNetwork;
use self::rooms::RoomSeat;
pub(crate) use self::side_channel::serve;
pub use self::violation::PairViolation;
use self::vllm_mooncake::PushSeat;
use crate::journal::RecordedRequest;

/// An engine's part in pairs.
#[derive(Clone, Debug)]
pub struct PairConfig {
    /// What it does.
    pub role: PairRole,
    /// What it is sent.
    pub protocol: PairProtocol,
    /// Where what happens at it is seen.
    pub network: Arc<PairNetwork>,
    /// Tokens of a KV cache that are moved in a second.
    pub transfer_rate: f64,
    /// How long a prefill engine keeps a KV cache for a decode engine.
    pub lease: Duration,
    /// The host that it names to partners. None is the address on which it listens, and `localhost`
    /// if that is every address, as vLLM's `VLLM_NIXL_SIDE_CHANNEL_HOST`.
    pub host: Option<String>,
    /// The port of its side channel, on the address on which it listens; 0 picks a free one.
    pub port: u16,
    /// The answers of a prefill engine end with their first token, so that nothing is left to
    /// generate, or with Mooncake nothing is transferred.
    pub ends_at_once: bool,
}

/// What an engine does for a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PairRole {
    /// Computes prompts.
    Prefill,
    /// Generates answers.
    Decode,
    /// Either, as a request asks for, and whole requests: vLLM's `kv_role: kv_both`.
    Both,
}

/// How the engines of a pair find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum PairProtocol {
    /// By `kv_transfer_params`, as vLLM's `NixlConnector`.
    VllmNixl,
    /// By a bootstrap room, as SGLang.
    Sglang,
    /// By a transfer id and a bootstrap server, as vLLM's `MooncakeConnector`.
    VllmMooncake,
    /// By `disaggregated_params`, as TensorRT-LLM.
    Trtllm,
}

/// One leg, before its request is read further.
#[derive(Debug, Default)]
pub(crate) struct PairLeg {
    /// Tokens of the prompt whose KV cache came from another engine.
    pub(crate) received: usize,
    /// The prompt's cache is for another engine: it stays in memory, and the answer is cut after one
    /// token.
    pub(crate) is_prefill: bool,
    /// Where the partner waits for the prompt.
    room: Option<RoomSeat>,
    /// Where the partner waits for the prompt, or comes later.
    push: Option<PushSeat>,
    /// The id of a context leg.
    context: Option<u64>,
}

/// A leg that cannot be served: the status of its answer.
pub(crate) type RefusedLeg = u16;

/// Why a leg cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LegFailure {
    /// It breaks the protocol.
    Violation(PairViolation),
    /// The other engine, or its leg, is gone.
    PartnerGone,
}

impl From<PairViolation> for LegFailure {
    fn from(violation: PairViolation) -> Self {
        Self::Violation(violation)
    }
}

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
            host: None,
            port: 0,
            ends_at_once: false,
        }
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// `InvalidInput` naming the first one that is wrong.
    pub(crate) fn check(&self) -> io::Result<()> {
        let is_rate = self.transfer_rate.is_finite() && self.transfer_rate > 0.0;
        let has_role = self.role != PairRole::Both || self.protocol == PairProtocol::VllmNixl;
        let checks = [
            (
                has_role,
                "an engine that does both needs the protocol vllm-nixl",
            ),
            (is_rate, "transfer rate must be above 0"),
            (!self.lease.is_zero(), "lease must be above 0"),
        ];
        match checks.iter().find(|(holds, _)| !holds) {
            Some((_, message)) => Err(io::Error::new(io::ErrorKind::InvalidInput, *message)),
            None => Ok(()),
        }
    }
}

impl PairEngine {
    /// Checks the request, and waits for what the other engine hands over.
    ///
    /// # Errors
    /// The status of the answer, if the request cannot be served.
    pub(crate) async fn begin(&self, request: &RecordedRequest) -> Result<PairLeg, RefusedLeg> {
        let fields = LegFields::of(&request.body);
        let leg = match (self.protocol, self.role) {
            (PairProtocol::VllmNixl, PairRole::Prefill) => vllm_nixl::prefill(&fields),
            (PairProtocol::VllmNixl, PairRole::Decode) => vllm_nixl::decode(self, &fields).await,
            (PairProtocol::VllmNixl, PairRole::Both) => vllm_nixl::either(self, &fields).await,
            (PairProtocol::Sglang, PairRole::Prefill) => sglang::prefill(self, &fields).await,
            (PairProtocol::Sglang, PairRole::Decode | PairRole::Both) => {
                sglang::decode(self, &fields).await
            }
            (PairProtocol::VllmMooncake, PairRole::Prefill) => {
                vllm_mooncake::prefill(self, &fields, request.header("x-data-parallel-rank"))
            }
            (PairProtocol::VllmMooncake, PairRole::Decode | PairRole::Both) => {
                vllm_mooncake::decode(self, &fields).await
            }
            (PairProtocol::Trtllm, PairRole::Prefill) => trtllm::context(self, &fields),
            (PairProtocol::Trtllm, PairRole::Decode | PairRole::Both) => {
                trtllm::generation(self, &fields).await
            }
        };
        leg.map_err(|failure| self.refuse(failure))
    }

    /// Checks that a prompt of this many tokens is no longer than what was handed over for it.
    ///
    /// # Errors
    /// The status of the answer, if it is.
    pub(crate) fn check_length(&self, leg: &PairLeg, tokens: usize) -> Result<(), RefusedLeg> {
        if leg.received > 0 && tokens > leg.received {
            return Err(self.refuse(PairViolation::LongerPrompt.into()));
        }
        Ok(())
    }

    /// Hands over a prompt that is computed: what the answer to request `id` states of it, if
    /// anything.
    ///
    /// # Errors
    /// The status of the answer, if the other engine is gone.
    pub(crate) async fn hand_over(
        &self,
        leg: &mut PairLeg,
        prompt: ComputedPrompt,
        id: &str,
    ) -> Result<Option<String>, RefusedLeg> {
        if let Some(seat) = &mut leg.push {
            vllm_mooncake::push(self, seat, prompt, id);
            return Ok(None);
        }
        if let Some(context) = leg.context {
            return Ok(Some(trtllm::keep(self, context, prompt, id)));
        }
        let Some(room) = &leg.room else {
            return Ok(Some(vllm_nixl::keep(self, prompt, id)));
        };
        let moved = sglang::hand_over(room, prompt.tokens).await;
        moved.map_err(|failure| self.refuse(failure))?;
        Ok(None)
    }

    /// Whether a decode engine reports what it received as cached, as vLLM does for connectors that
    /// state nothing else.
    pub(crate) fn counts_received(&self) -> bool {
        self.protocol == PairProtocol::VllmMooncake
    }

    /// Whether the answers to prefill legs have the prompt as tokens.
    pub(crate) fn returns_tokens(&self) -> bool {
        self.protocol == PairProtocol::Trtllm
    }

    /// Whether the answer to this leg ends with the end of a text.
    pub(crate) fn stops(&self, leg: &PairLeg) -> bool {
        self.ends_at_once && leg.is_prefill
    }

    /// Why the answer to a context leg of TensorRT-LLM ends; `None` for other legs.
    pub(crate) fn ends_context(&self, leg: &PairLeg) -> Option<&'static str> {
        let reason = if self.ends_at_once {
            "stop"
        } else {
            "not_finished"
        };
        leg.context.map(|_| reason)
    }

    /// Counts what broke the protocol, and returns the status of its answer.
    fn refuse(&self, failure: LegFailure) -> RefusedLeg {
        match failure {
            LegFailure::PartnerGone => 500,
            LegFailure::Violation(violation) => {
                self.violations.count(violation);
                tracing::warn!(
                    kind = violation.kind(),
                    "a request broke the protocol of a pair"
                );
                violation.status()
            }
        }
    }
}
