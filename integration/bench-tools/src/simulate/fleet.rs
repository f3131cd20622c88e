//! The servers as they truly are. Public facts are for every dispatcher; the rest only for the
//! omniscient one.

use super::roles::FleetRoles;
use super::sample::Sample;
use super::server::{Server, reusable};
use super::settings::Settings;

/// All servers of a simulation.
#[derive(Debug)]
pub struct Fleet {
    pub(super) servers: Vec<Server>,
    roles: FleetRoles,
    block_tokens: usize,
    blocks: usize,
}

/// What one more prompt would meet on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prospect {
    /// Prompt tokens that the server has still to compute for others; a prefix that they share
    /// counts once.
    pub pending_tokens: usize,
    /// Tokens of the prompt that will not be cached when its turn comes.
    pub uncached_tokens: usize,
}

impl Fleet {
    /// Servers as `settings` describe them, whose caches know blocks of `block_tokens`.
    pub(super) fn new(settings: &Settings, block_tokens: usize) -> Self {
        let configs = settings.engines(block_tokens);
        let blocks = settings.blocks(block_tokens);
        Self {
            servers: configs.into_iter().map(Server::new).collect(),
            roles: settings.roles,
            block_tokens,
            blocks,
        }
    }

    /// How many servers there are.
    #[must_use]
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// What each of them does.
    #[must_use]
    pub fn roles(&self) -> FleetRoles {
        self.roles
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
        let blocks = self.reusable(blocks, prompt_tokens);
        self.servers[server].cached_prefix(blocks) * self.block_tokens
    }

    /// Truth: what a server has still to prefill, and what of one more prompt it would have to
    /// prefill after that.
    #[must_use]
    pub fn prospect(&self, server: usize, blocks: &[u64], prompt_tokens: usize) -> Prospect {
        let (server, blocks) = (&self.servers[server], self.reusable(blocks, prompt_tokens));
        let held = server.promised_prefix(blocks) * self.block_tokens;
        Prospect {
            pending_tokens: server.pending_prefill(),
            uncached_tokens: prompt_tokens - held,
        }
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

    fn reusable<'a>(&self, blocks: &'a [u64], prompt_tokens: usize) -> &'a [u64] {
        reusable(blocks, prompt_tokens, self.block_tokens)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.servers.iter().all(Server::is_idle)
    }
}
