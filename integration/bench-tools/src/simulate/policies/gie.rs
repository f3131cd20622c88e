//! `gie`: the weighted scorers of the Gateway API inference extension, with the weights of its
//! shipped configuration.
//!
//! `2 · queue + 2 · kv + 3 · prefix`, greatest wins, by lot among equals, where over all servers
//! `queue = (max waiting − waiting) / (max waiting − min waiting)` (1 where all are equal), `kv = 1
//! − KV usage`, and `prefix = matched blocks / blocks of the prompt` in an index of its own.
//! Waiting and usage are scraped every 50 ms. The index knows what this router sent: for each
//! server the last 31,250 blocks of 64 tokens, whatever the server's memory, and at most 256
//! leading blocks of a prompt are matched.
//!
//! Source: `queue-scorer`, `kv-cache-utilization-scorer`, `prefix-cache-scorer` and
//! `max-score-picker` of the extension, versions 1.0 to 1.5.

use std::time::Duration;

use hermes_core::rng::SeededRng;

use super::Setup;
use super::choice::least;
use super::prefixes::Prefixes;
use super::scorers::{INDEX_TOKENS, MATCHED_TOKENS, SCRAPES, queue_score};
use crate::simulate::dispatcher::{Arrival, Dispatcher, Moment, Placement, Sample};

const QUEUE_WEIGHT: f64 = 2.0;
const KV_WEIGHT: f64 = 2.0;
const PREFIX_WEIGHT: f64 = 3.0;

/// Adds scores up.
#[derive(Debug)]
pub(super) struct Gie {
    samples: Vec<Sample>,
    prefixes: Prefixes,
    matched_blocks: usize,
    rng: SeededRng,
}

impl Gie {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            samples: vec![Sample::default(); setup.roles.aggregated],
            prefixes: Prefixes::new(setup.roles.aggregated, INDEX_TOKENS / setup.block_tokens),
            matched_blocks: (MATCHED_TOKENS / setup.block_tokens).max(1),
            rng: SeededRng::new(setup.seed),
        }
    }

    fn score(&self, server: usize, blocks: &[u64]) -> f64 {
        let Sample { kv_usage, .. } = self.samples[server];
        let queue = queue_score(&self.samples, server);
        let prefix = self.prefixes.matched(server, blocks) as f64 / blocks.len().max(1) as f64;
        QUEUE_WEIGHT * queue + KV_WEIGHT * (1.0 - kv_usage) + PREFIX_WEIGHT * prefix
    }
}

impl Dispatcher for Gie {
    fn arrived(&mut self, _at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        let blocks = &arrival.blocks[..arrival.blocks.len().min(self.matched_blocks)];
        let costs: Vec<f64> = (0..self.samples.len())
            .map(|server| -self.score(server, blocks))
            .collect();
        let Some(server) = least(costs.into_iter().enumerate(), &mut self.rng) else {
            return;
        };
        self.prefixes.learn(server, blocks);
        placements.push(Placement::whole(arrival.request, server));
    }

    fn sample_interval(&self) -> Option<Duration> {
        Some(SCRAPES)
    }

    fn sampled(&mut self, _at: Moment<'_>, samples: &[Sample], _placements: &mut Vec<Placement>) {
        let aggregated = self.samples.len();
        self.samples.copy_from_slice(&samples[..aggregated]);
    }
}
