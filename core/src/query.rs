//! The request of a choice, and its result.

use std::sync::Arc;

use serde::Serialize;
use smallvec::SmallVec;

use crate::{placement::Placement, snapshot::EndpointId};

/// Endpoints named in one answer: the choice and what to try after it, in order.
pub const MAX_RANKED: usize = 4;

/// One request, reduced to what a choice may read. The prompt is not among it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// Prompt length in bytes of its canonical form.
    pub prompt_bytes: u64,
    /// Prompt length in tokens.
    pub prompt_tokens: u32,
    /// They were counted, and not estimated from bytes.
    pub exact_tokens: bool,
    /// Chained hashes of the prompt's whole blocks, see [`crate::prefix`]; empty when no strategy
    /// asks for them.
    pub blocks: Arc<[u64]>,
    /// Bytes of one block.
    pub block_bytes: u32,
    /// Hash of the session key, if the request has one.
    pub session: Option<u64>,
    /// Higher goes first; 0 is ordinary.
    pub priority: i32,
    /// Hash of the tenant, for fair queueing; all requests without one share a tenant.
    pub tenant: Option<u64>,
    /// The answer comes as a whole: its first byte does not show when prefill ended.
    pub non_streaming: bool,
    /// The engine computes the whole prompt, whatever it has cached.
    pub recomputes_prompt: bool,
    /// It is to be served only where its prompt is cached, see [`Self::is_covered_by`].
    pub only_cached: bool,
    /// It is to be split between a prefill and a decode endpoint, if the pool has pairs for it. As
    /// a request arrives: it may be.
    pub split: bool,
    /// Endpoints that the request is not sent to: they were tried already and failed, or it came
    /// with a list of others.
    pub exclude: SmallVec<[EndpointId; MAX_RANKED]>,
}

/// What one source reports as cached of a prompt at one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct CacheHit {
    /// Where.
    pub endpoint: EndpointId,
    /// How much of the prompt.
    pub cached: CachedTokens,
    /// The source that reports it.
    pub source: CacheSource,
    /// It may be more: the source knows only a part of what is there.
    pub at_least: bool,
}

/// Tokens of a prompt that are cached, counted from its start, by how far down one has to reach for
/// them.
///
/// Boundaries, not amounts: `gpu <= host <= disk`, and what lies between two of them is in the
/// slower tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CachedTokens {
    /// In the accelerator's memory.
    pub gpu: u32,
    /// There, or in the host's memory.
    pub host: u32,
    /// There, or on a disk or in a store behind the network.
    pub disk: u32,
}

/// A source of cache hits; the more exact is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheSource {
    /// Learned from what was routed there.
    Learned,
    /// A global KV manager.
    KvManager,
    /// The engine's own KV events.
    KvEvents,
}

/// The endpoints to try, best first. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointChoice {
    /// At most [`MAX_RANKED`], each once.
    pub ranked: SmallVec<[RankedEndpoint; MAX_RANKED]>,
    /// No endpoint that holds the model was healthy, so these were chosen although they are down.
    pub panic_mode: bool,
}

/// One endpoint of a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RankedEndpoint {
    /// Position in the pool's endpoints.
    pub position: usize,
    /// Its id.
    pub endpoint: EndpointId,
    /// Prompt tokens it is expected to have cached.
    pub cached_tokens: u32,
    /// Who takes the KV cache over and answers, if this endpoint only computes it.
    pub decode: Option<DecodePartner>,
}

/// The decode endpoint of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DecodePartner {
    /// Position in the pool's endpoints.
    pub position: usize,
    /// Its id.
    pub endpoint: EndpointId,
}

// === Query ===

impl Query {
    /// Whether this number of cached tokens is the whole prompt, as far as caches are known: all but
    /// at most one block, as only whole blocks are cached.
    #[must_use]
    pub fn is_covered_by(&self, cached_tokens: u32) -> bool {
        self.is_covered_of(self.prompt_tokens, cached_tokens)
    }

    /// The same of its prompt where that is known to have another number of tokens.
    #[must_use]
    pub fn is_covered_of(&self, prompt_tokens: u32, cached_tokens: u32) -> bool {
        let uncached = prompt_tokens.saturating_sub(cached_tokens);
        let tokens = u64::from(prompt_tokens) * u64::from(self.block_bytes);
        u64::from(uncached) <= tokens.div_ceil(self.prompt_bytes.max(1))
    }
}

// === RankedEndpoint ===

impl RankedEndpoint {
    /// The endpoint at a position, for the whole request.
    #[must_use]
    pub const fn alone(position: usize, endpoint: EndpointId, cached_tokens: u32) -> Self {
        Self {
            position,
            endpoint,
            cached_tokens,
            decode: None,
        }
    }

    /// The endpoints that serve the request.
    #[must_use]
    pub fn placement(&self) -> Placement<EndpointId> {
        let Self {
            endpoint, decode, ..
        } = *self;
        decode.map_or(Placement::One(endpoint), |decode| Placement::Pair {
            prefill: endpoint,
            decode: decode.endpoint,
        })
    }
}

// === CachedTokens ===

impl CachedTokens {
    /// `tokens` in the accelerator's memory, and no more in slower tiers.
    #[must_use]
    pub const fn on_gpu(tokens: u32) -> Self {
        Self {
            gpu: tokens,
            host: tokens,
            disk: tokens,
        }
    }

    /// From amounts that may not be in order: each tier reaches at least as far as the faster one.
    #[must_use]
    pub fn cumulative(gpu: u32, host: u32, disk: u32) -> Self {
        let host = host.max(gpu);
        Self {
            gpu,
            host,
            disk: disk.max(host),
        }
    }

    /// Tokens of prefill that this saves: a token in host memory counts three quarters, one on disk
    /// a quarter, because loading it costs time too (the weights of Dynamo's and Mooncake's
    /// routers).
    #[must_use]
    pub fn saved_tokens(self) -> u32 {
        let host = u64::from(self.host.saturating_sub(self.gpu)) * 3 / 4;
        let disk = u64::from(self.disk.saturating_sub(self.host)) / 4;
        self.gpu.saturating_add((host + disk) as u32)
    }
}

// === CacheSource ===

impl CacheSource {
    /// Every source, the least exact first.
    pub const ALL: [Self; 3] = [Self::Learned, Self::KvManager, Self::KvEvents];

    /// Its name in metrics and explanations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::KvManager => "kv_manager",
            Self::KvEvents => "kv_events",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_covered_by_all_of_its_whole_blocks() {
        // 10.5 blocks of 64 tokens.
        let query = Query {
            prompt_bytes: 2_688,
            prompt_tokens: 672,
            block_bytes: 256,
            ..Query::default()
        };
        assert!(query.is_covered_by(640) && query.is_covered_by(672) && query.is_covered_by(800));
        assert!(!query.is_covered_by(576) && !query.is_covered_by(0));
        let short = Query {
            prompt_bytes: 100,
            prompt_tokens: 25,
            ..query
        };
        assert!(short.is_covered_by(0), "it has no whole block");
    }

    #[test]
    fn slower_tiers_are_worth_less() {
        assert_eq!(CachedTokens::on_gpu(100).saved_tokens(), 100);
        assert_eq!(
            CachedTokens {
                gpu: 100,
                host: 200,
                disk: 300
            }
            .saved_tokens(),
            100 + 75 + 25
        );
        assert_eq!(
            CachedTokens::cumulative(100, 40, 0),
            CachedTokens::on_gpu(100)
        );
    }
}
