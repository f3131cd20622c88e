//! The servers as they truly are. Public facts are for every dispatcher; the rest only for the omniscient one.

use super::dispatcher::Sample;
use super::server::Server;
use super::settings::Settings;

/// All servers of a simulation.
#[derive(Debug)]
pub struct Fleet {
    pub(super) servers: Vec<Server>,
    block_tokens: usize,
    blocks: usize,
}

impl Fleet {
    /// Servers as `settings` describe them, whose caches know blocks of `block_tokens`.
    pub(super) fn new(settings: &Settings, block_tokens: usize) -> Self {
        let configs = settings.engines(block_tokens);
        let blocks = settings.blocks(block_tokens);
        Self { servers: configs.into_iter().map(Server::new).collect(), block_tokens, blocks }
    }

    /// How many servers there are.
    #[must_use]
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Tokens in one block of a prompt and of a cache.
    #[must_use]
    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// KV blocks in the memory of each server, as engines say in `vllm:cache_config_info`.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Truth: how many leading tokens of a prompt are in a server's cache now.
    #[must_use]
    pub fn cached_tokens(&self, server: usize, blocks: &[u64], prompt_tokens: usize) -> usize {
        let reusable = prompt_tokens.saturating_sub(1) / self.block_tokens;
        let blocks = &blocks[..blocks.len().min(reusable)];
        self.servers[server].scheduler().cache().prefix_len(blocks) * self.block_tokens
    }

    /// Truth: prompt tokens that a server has still to compute for what it was given.
    #[must_use]
    pub fn pending_prefill(&self, server: usize) -> usize {
        self.servers[server].scheduler().pending_prefill()
    }

    /// Truth: prompt tokens a second that a server computes.
    #[must_use]
    pub fn prefill_rate(&self, server: usize) -> f64 {
        self.servers[server].prefill_rate()
    }

    /// Truth: metrics as they are at this moment, not as of the last scrape.
    #[must_use]
    pub fn sample(&self, server: usize) -> Sample {
        self.servers[server].sample()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.servers.iter().all(Server::is_idle)
    }
}
