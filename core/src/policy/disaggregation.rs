//! How requests of a pool are split between prefill and decode endpoints.

use std::{num::NonZeroU16, time::Duration};

use serde::Serialize;

/// How requests of a pool are split. A pool without it leaves its prefill and decode endpoints
/// idle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DisaggregationPolicy {
    /// What the endpoints are sent.
    pub dialect: PairDialect,
    /// What follows when a pair fails.
    pub fallback: PairFallback,
    /// A request with fewer uncached prompt tokens at an endpoint that can serve it alone is not
    /// split: moving its KV cache would take longer than it saves.
    pub min_uncached_tokens: u32,
    /// How long a prefill endpoint keeps a KV cache that was not taken over (vLLM:
    /// `kv_lease_duration`, TensorRT-LLM: `kv_transfer_timeout_ms`).
    pub lease: Duration,
    /// Of prefill endpoints that state none.
    pub bootstrap_port: NonZeroU16,
}

/// What prefill and decode endpoints are sent, by its name in the configuration. The bytes are in
/// the data plane; here is what a choice needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairDialect {
    /// vLLM's `NixlConnector`: the prefill answers with parameters that the decode is sent.
    VllmNixl,
    /// vLLM's `MooncakeConnector`: both at once, with a transfer that one pushes to the other.
    VllmMooncake,
    /// TensorRT-LLM: a context server answers with parameters that the generation server is sent.
    Trtllm,
    /// SGLang: both get one body at once, with a room in which they meet.
    Sglang,
    /// Both read and write one store (LMCache, `MooncakeStore`): the prefill first, for one token.
    SharedStorage,
    /// openFuyao's proxy server: a leader sends both legs to the endpoints that headers name.
    LeaderHeaders,
    /// llm-d's sidecar before the decode endpoint sends the prefill to the endpoint that a header
    /// names.
    LlmDSidecar,
}

/// What follows when a pair fails before the first byte of its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairFallback {
    /// The next pair, and when there is none, an endpoint that can serve the request alone.
    #[default]
    OtherPrefill,
    /// An endpoint that can serve the request alone.
    Aggregate,
    /// The failure is the answer.
    Fail,
}

impl PairDialect {
    /// Every dialect.
    pub const ALL: [Self; 7] = [
        Self::VllmNixl,
        Self::VllmMooncake,
        Self::Trtllm,
        Self::Sglang,
        Self::SharedStorage,
        Self::LeaderHeaders,
        Self::LlmDSidecar,
    ];

    /// Its name in the configuration and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::VllmNixl => "vllm-nixl",
            Self::VllmMooncake => "vllm-mooncake",
            Self::Trtllm => "trtllm",
            Self::Sglang => "sglang",
            Self::SharedStorage => "shared-storage",
            Self::LeaderHeaders => "leader-headers",
            Self::LlmDSidecar => "llm-d-sidecar",
        }
    }

    /// Whether a decode endpoint computes the prompt itself when it is sent a plain request.
    /// SGLang's refuses one without a room.
    #[must_use]
    pub const fn decode_serves_alone(self) -> bool {
        !matches!(self, Self::Sglang)
    }

    /// Whether decode endpoints ask for a KV cache by names that the prefill endpoint gives its
    /// ranks: [`PairingFacts::ranks`](crate::snapshot::PairingFacts::ranks).
    #[must_use]
    pub const fn needs_ranks(self) -> bool {
        matches!(self, Self::VllmMooncake)
    }

    /// Whether one engine may be either half of a pair, for one request this and for another that:
    /// vLLM's `kv_role: kv_both`, and any engine of a store.
    #[must_use]
    pub const fn has_engines_for_both(self) -> bool {
        matches!(self, Self::VllmNixl | Self::SharedStorage)
    }

    /// Whether pairs are reached through the leader of their group.
    #[must_use]
    pub const fn needs_leader(self) -> bool {
        matches!(self, Self::LeaderHeaders)
    }
}

impl PairFallback {
    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OtherPrefill => "other-prefill",
            Self::Aggregate => "aggregate",
            Self::Fail => "fail",
        }
    }
}

impl DisaggregationPolicy {
    /// The policy of a dialect, with every default.
    #[must_use]
    pub const fn of(dialect: PairDialect) -> Self {
        Self {
            dialect,
            fallback: PairFallback::OtherPrefill,
            min_uncached_tokens: 256,
            lease: Duration::from_secs(30),
            bootstrap_port: NonZeroU16::new(8998).expect("not zero"),
        }
    }
}
