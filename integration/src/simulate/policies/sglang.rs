//! `sglang`: the `cache_aware` rule of SGLang's router, also of vLLM's.
//!
//! Imbalanced, that is `max − min > 64` and `max > 1.5 · min` requests in flight from this router: the server with the
//! fewest. Otherwise the server with the longest match in the router's own tree if more than 0.3 of the prompt matches,
//! else the server whose tree is smallest. The tree learns every prompt that is sent, and a server's part of it holds
//! 67,108,864 characters (four a token here), so that it forgets long after the server has.
//!
//! Source: defaults of `sglang_router` (`--cache-threshold 0.3 --balance-abs-threshold 64 --balance-rel-threshold 1.5
//! --max-tree-size 67108864`).

use hermes_core::dice::Dice;

use super::Setup;
use super::choice::least;
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
    servers: usize,
    dice: Dice,
}

impl Sglang {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            inflight: InFlight::new(setup.servers),
            tree: Prefixes::new(setup.servers, TREE_TOKENS / setup.block_tokens),
            servers: setup.servers,
            dice: Dice::new(setup.seed),
        }
    }

    fn choose(&mut self, blocks: &[u64], block_share: f64) -> Option<usize> {
        let requests = self.inflight.loads().iter().map(|load| load.requests);
        let (most, fewest) = (requests.clone().max()?, requests.clone().min()?);
        if most - fewest > ABSOLUTE && most as f64 > RELATIVE * fewest as f64 {
            let counts: Vec<usize> = requests.collect();
            return least(counts.into_iter().map(|count| count as f64).enumerate(), &mut self.dice);
        }
        let matches: Vec<usize> = (0..self.servers).map(|server| self.tree.matched(server, blocks)).collect();
        let longest = matches.iter().max().copied().unwrap_or_default();
        if longest as f64 * block_share > CACHE_THRESHOLD {
            return least(matches.into_iter().map(|matched| -(matched as f64)).enumerate(), &mut self.dice);
        }
        least((0..self.servers).map(|server| (server, self.tree.size(server) as f64)), &mut self.dice)
    }
}

impl Dispatcher for Sglang {
    fn arrived(&mut self, at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        let Arrival { request, prompt_tokens, blocks, .. } = *arrival;
        let block_share = at.fleet.block_tokens() as f64 / prompt_tokens as f64;
        let Some(server) = self.choose(blocks, block_share) else { return };
        self.tree.learn(server, blocks);
        self.inflight.sent(request, server, prompt_tokens);
        placements.push(Placement { request, server });
    }

    fn finished(&mut self, _at: Moment<'_>, seen: Finished, _placements: &mut Vec<Placement>) {
        self.inflight.finished(seen.request, seen.server);
    }
}
