//! llm-d's router in front of prefill and decode servers, as its two published configurations have
//! it. Both choose the decode server first, among those that generate.
//!
//! `llm-d`: the decode server with the fewest requests of this router (`active-request-scorer`),
//! and always a prefill server (`always-disagg-pd-decider`), chosen by the rule of [`super::llm_d`].
//! The router sees one answer, that of the pair: tokens count at a prefill server until it begins.
//! Source: `guides/pd-disaggregation/router/pd-disaggregation.values.yaml` of llm-d.
//!
//! `llm-d-threshold`: on both sides `2 · prefix + queue`, greatest wins, by lot among equals. There is a prefill
//! only if at least 16 tokens of the prompt are not in the index for the decode server
//! (`prefix-based-pd-decider` with `nonCachedTokens: 16`; without that setting it splits nothing, or in
//! older versions everything). Source: `deploy/config/pd-epp-config.yaml` of llm-d-router, with the
//! index and the scrapes of [`super::scorers`].

use std::time::Duration;

use hermes_core::rng::SeededRng;

use super::Setup;
use super::choice::least;
use super::inflight::InFlight;
use super::llm_d::LlmD;
use super::prefixes::Prefixes;
use super::scorers::{INDEX_TOKENS, MATCHED_TOKENS, SCRAPES, queue_score};
use crate::simulate::dispatcher::{
    Arrival, Dispatcher, Finished, FirstToken, Moment, Placement, RequestIndex, Sample,
};
use crate::simulate::roles::FleetRoles;

const PREFIX_WEIGHT: f64 = 2.0;
const QUEUE_WEIGHT: f64 = 1.0;
/// Uncached tokens from which there is a prefill.
const NON_CACHED_TOKENS: usize = 16;

/// `llm-d`: every request is split.
#[derive(Debug)]
pub(super) struct Always {
    roles: FleetRoles,
    prefills: LlmD,
    /// Requests at servers that generate.
    active: InFlight,
    /// The prefill server of each request.
    prefilling: Vec<usize>,
    rng: SeededRng,
}

/// `llm-d-threshold`: a request is split if enough of it is not cached.
#[derive(Debug)]
pub(super) struct Threshold {
    roles: FleetRoles,
    samples: Vec<Sample>,
    prefixes: Prefixes,
    matched_blocks: usize,
    rng: SeededRng,
}

/// Servers that generate: the decode filter takes those of both roles too.
fn generating(roles: FleetRoles) -> Vec<usize> {
    roles.aggregates().chain(roles.decodes()).collect()
}

// === Always ===

impl Always {
    pub(super) fn new(setup: Setup) -> Self {
        let Setup { roles, seed, .. } = setup;
        Self {
            roles,
            prefills: LlmD::new(setup, roles.prefills()),
            active: InFlight::new(roles.servers()),
            prefilling: Vec::new(),
            rng: SeededRng::new(seed),
        }
    }

    fn prefill_of(&mut self, request: RequestIndex) -> &mut usize {
        if self.prefilling.len() <= request {
            self.prefilling.resize(request + 1, usize::MAX);
        }
        &mut self.prefilling[request]
    }
}

impl Dispatcher for Always {
    fn arrived(&mut self, at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        let Arrival {
            request, blocks, ..
        } = *arrival;
        let loads = self.active.loads();
        let active = |server: usize| (server, loads[server].requests as f64);
        let decodes = generating(self.roles).into_iter().map(active);
        let Some(decode) = least(decodes, &mut self.rng) else {
            return;
        };
        let Some(prefill) = self.prefills.choose(at, arrival) else {
            return;
        };
        self.active.sent(request, decode, 0);
        self.prefills.learn(decode, blocks);
        *self.prefill_of(request) = prefill;
        placements.push(Placement::pair(request, prefill, decode));
    }

    fn first_token(&mut self, _at: Moment<'_>, seen: FirstToken, _placements: &mut Vec<Placement>) {
        let prefill = *self.prefill_of(seen.request);
        self.prefills.answered(seen.request, prefill);
    }

    fn finished(&mut self, _at: Moment<'_>, seen: Finished, _placements: &mut Vec<Placement>) {
        self.active.finished(seen.request, seen.server);
    }
}

// === Threshold ===

impl Threshold {
    pub(super) fn new(setup: Setup) -> Self {
        let Setup {
            roles,
            block_tokens,
            seed,
            ..
        } = setup;
        let servers = roles.servers();
        Self {
            roles,
            samples: vec![Sample::default(); servers],
            prefixes: Prefixes::new(servers, INDEX_TOKENS / block_tokens),
            matched_blocks: (MATCHED_TOKENS / block_tokens).max(1),
            rng: SeededRng::new(seed),
        }
    }

    /// The best of `servers` for these blocks, and how many of them the index has for it.
    fn best(&mut self, servers: &[usize], blocks: &[u64]) -> Option<(usize, usize)> {
        let samples: Vec<Sample> = servers.iter().map(|&server| self.samples[server]).collect();
        let matched: Vec<usize> = servers
            .iter()
            .map(|&server| self.prefixes.matched(server, blocks))
            .collect();
        let total = blocks.len().max(1) as f64;
        let cost = |index: usize| {
            let prefix = matched[index] as f64 / total;
            let score = PREFIX_WEIGHT * prefix + QUEUE_WEIGHT * queue_score(&samples, index);
            (index, -score)
        };
        let best = least((0..servers.len()).map(cost), &mut self.rng)?;
        Some((servers[best], matched[best]))
    }
}

impl Dispatcher for Threshold {
    fn arrived(&mut self, at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        let Arrival {
            request,
            prompt_tokens,
            blocks,
            ..
        } = *arrival;
        let blocks = &blocks[..blocks.len().min(self.matched_blocks)];
        let Some((decode, matched)) = self.best(&generating(self.roles), blocks) else {
            return;
        };
        let uncached = prompt_tokens - matched * at.fleet.block_tokens();
        let prefills: Vec<usize> = self.roles.prefills().collect();
        let prefill = (uncached >= NON_CACHED_TOKENS)
            .then(|| self.best(&prefills, blocks))
            .flatten();
        self.prefixes.learn(decode, blocks);
        let Some((prefill, _)) = prefill else {
            placements.push(Placement::whole(request, decode));
            return;
        };
        self.prefixes.learn(prefill, blocks);
        placements.push(Placement::pair(request, prefill, decode));
    }

    fn sample_interval(&self) -> Option<Duration> {
        Some(SCRAPES)
    }

    fn sampled(&mut self, _at: Moment<'_>, samples: &[Sample], _placements: &mut Vec<Placement>) {
        self.samples.copy_from_slice(samples);
    }
}
