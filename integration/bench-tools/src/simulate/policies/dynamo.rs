//! `dynamo`: the cost of NVIDIA Dynamo's KV router with its defaults.
//!
//! `(pending prefill tokens + prompt tokens) / block size − cached blocks + active blocks`, least
//! wins, by lot among equals. Pending tokens are those that this router sent and that have no first
//! token yet. Active blocks are those of its unfinished requests there, this one's included, each
//! once. Cached blocks are exact: the engines publish KV events to every router, so this rule reads
//! them from the fleet, without the delay of a few milliseconds.
//!
//! Source: Dynamo's `reference.rs`, with overlap credit 1, no decay, prefill load scale 1 and
//! temperature 0.

use std::collections::HashMap;

use hermes_core::rng::SeededRng;

use super::Setup;
use super::choice::least;
use super::inflight::InFlight;
use crate::simulate::dispatcher::{
    Arrival, Dispatcher, Finished, FirstToken, Moment, Placement, RequestIndex,
};

/// Counts blocks of prefill and of decode alike.
#[derive(Debug)]
pub(super) struct Dynamo {
    inflight: InFlight,
    /// For each server, how many unfinished requests hold each block.
    active: Vec<HashMap<u64, u32>>,
    /// The blocks of unfinished requests.
    blocks: HashMap<RequestIndex, Box<[u64]>>,
    rng: SeededRng,
}

impl Dynamo {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            inflight: InFlight::new(setup.roles.aggregated),
            active: vec![HashMap::new(); setup.roles.aggregated],
            blocks: HashMap::new(),
            rng: SeededRng::new(setup.seed),
        }
    }

    fn cost(&self, at: Moment<'_>, server: usize, arrival: &Arrival<'_>) -> f64 {
        let Arrival {
            prompt_tokens,
            blocks,
            ..
        } = *arrival;
        let block_tokens = at.fleet.block_tokens();
        let pending = self.inflight.loads()[server].tokens + prompt_tokens;
        let cached = at.fleet.cached_tokens(server, blocks, prompt_tokens) / block_tokens;
        let active = &self.active[server];
        let joining = blocks
            .iter()
            .filter(|block| !active.contains_key(block))
            .count();
        (pending as f64 / block_tokens as f64 - cached as f64).max(0.0)
            + (active.len() + joining) as f64
    }
}

impl Dispatcher for Dynamo {
    fn arrived(&mut self, at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        let Arrival {
            request,
            prompt_tokens,
            blocks,
            ..
        } = *arrival;
        let costs: Vec<f64> = (0..self.active.len())
            .map(|server| self.cost(at, server, arrival))
            .collect();
        let Some(server) = least(costs.into_iter().enumerate(), &mut self.rng) else {
            return;
        };
        let uncached = prompt_tokens - at.fleet.cached_tokens(server, blocks, prompt_tokens);
        self.inflight.sent(request, server, uncached);
        for block in blocks {
            *self.active[server].entry(*block).or_default() += 1;
        }
        self.blocks.insert(request, blocks.into());
        placements.push(Placement::whole(request, server));
    }

    fn first_token(&mut self, _at: Moment<'_>, seen: FirstToken, _placements: &mut Vec<Placement>) {
        self.inflight.first_token(seen.request, seen.server);
    }

    fn finished(&mut self, _at: Moment<'_>, seen: Finished, _placements: &mut Vec<Placement>) {
        self.inflight.finished(seen.request, seen.server);
        let active = &mut self.active[seen.server];
        for block in self.blocks.remove(&seen.request).unwrap_or_default() {
            if let Some(requests) = active.get_mut(&block) {
                *requests -= 1;
                if *requests == 0 {
                    active.remove(&block);
                }
            }
        }
    }
}
