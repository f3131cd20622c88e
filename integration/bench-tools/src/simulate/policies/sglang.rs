//! `sglang`: the `cache_aware` rule of SGLang's router, also of vLLM's.
//!
//! Imbalanced, that is `max − min > 64` and `max > 1.5 · min` requests in flight from this router:
//! the server with the fewest. Otherwise, if more than 0.3 of the prompt matches in the router's
//! own tree, the server that has the longest match; else the one with the fewest requests. Among
//! equals the first wins. The tree learns every prompt that is sent, and a server's part of it
//! holds 67,108,864 characters (four a token here), so it forgets long after the server has.
//!
//! Source: `cache_aware.rs` and `tree.rs` of SGLang's model gateway, with the defaults of its
//! command line (`--cache-threshold 0.3 --balance-abs-threshold 64 --balance-rel-threshold 1.5
//! --max-tree-size 67108864`). Versions before the end of 2025 send what does not match to the
//! server with the smallest tree instead.

use super::Setup;
use super::inflight::InFlight;
use super::prefixes::Prefixes;
use crate::simulate::dispatcher::{Arrival, Dispatcher, Finished, Moment, Placement};

const CACHE_THRESHOLD: f64 = 0.3;
const ABSOLUTE: usize = 64;
const RELATIVE: f64 = 1.5;
/// Tokens in a server's part of the tree.
const TREE_TOKENS: usize = 67_108_864 / 4;

/// Keeps a tree and counts requests.
#[derive(Debug)]
pub(super) struct Sglang {
    inflight: InFlight,
    tree: Prefixes,
}

impl Sglang {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            inflight: InFlight::new(setup.roles.aggregated),
            tree: Prefixes::new(setup.roles.aggregated, TREE_TOKENS / setup.block_tokens),
        }
    }

    /// `block_share` is the part of the prompt that is one block.
    fn choose(&self, blocks: &[u64], block_share: f64) -> Option<usize> {
        let requests: Vec<usize> = self
            .inflight
            .loads()
            .iter()
            .map(|load| load.requests)
            .collect();
        let (most, fewest) = (*requests.iter().max()?, *requests.iter().min()?);
        let idlest = requests.iter().position(|requests| *requests == fewest);
        if most - fewest > ABSOLUTE && most as f64 > RELATIVE * fewest as f64 {
            return idlest;
        }
        let matches: Vec<usize> = (0..requests.len())
            .map(|server| self.tree.matched(server, blocks))
            .collect();
        let longest = *matches.iter().max()?;
        let hits = longest as f64 * block_share > CACHE_THRESHOLD;
        if hits {
            matches.iter().position(|matched| *matched == longest)
        } else {
            idlest
        }
    }
}

impl Dispatcher for Sglang {
    fn arrived(&mut self, at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        let Arrival {
            request,
            prompt_tokens,
            blocks,
            ..
        } = *arrival;
        let block_share = at.fleet.block_tokens() as f64 / prompt_tokens as f64;
        let Some(server) = self.choose(blocks, block_share) else {
            return;
        };
        self.tree.learn(server, blocks);
        self.inflight.sent(request, server, prompt_tokens);
        placements.push(Placement::whole(request, server));
    }

    fn finished(&mut self, _at: Moment<'_>, seen: Finished, _placements: &mut Vec<Placement>) {
        self.inflight.finished(seen.request, seen.server);
    }
}
