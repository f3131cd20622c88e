//! `llm-d`: "sticky until saturated", the prefix filter and token load of llm-d's router.
//!
//! Candidates are the servers with at least 0.80 of the prompt in the router's index, unless the
//! least time to first token among them exceeds that among the others by more than 18 s; without
//! such servers, all. That time is `tokens / peak`, where `tokens` are uncached tokens that this
//! router sent there and that are not answered yet. Of the candidates the one with the least
//! `tokens` plus this request's own uncached ones wins (`token-load-scorer`), by lot among equals.
//! The index knows what this router sent and holds as many blocks for each server as its memory
//! does.
//!
//! Source: `prefix-cache-affinity-filter` (`affinityThreshold 0.80`, `maxTTFTPenaltyMs 18000`,
//! `peakPrefillThroughput 15928`), `token-load-scorer` (saturates at 4,194,304 tokens),
//! `approx-prefix-cache-producer` and `inflight-load-producer` of llm-d-router 0.10.

use std::ops::Range;

use hermes_core::rng::SeededRng;

use super::Setup;
use super::choice::least;
use super::inflight::InFlight;
use super::prefixes::Prefixes;
use crate::simulate::dispatcher::{
    Arrival, Dispatcher, Finished, FirstToken, Moment, Placement, RequestIndex,
};

const AFFINITY: f64 = 0.80;
/// Tokens in flight by which a sticky server may be worse: 18 s at the peak of 15,928 tokens a
/// second.
const PENALTY_TOKENS: f64 = 18.0 * 15_928.0;
/// Where the token load's score reaches zero.
const FULL_TOKENS: f64 = 4_194_304.0;

/// Sticks to caches until they are too busy.
#[derive(Debug)]
pub(super) struct LlmD {
    servers: Range<usize>,
    inflight: InFlight,
    prefixes: Prefixes,
    rng: SeededRng,
}

impl LlmD {
    /// Places requests on these of the servers.
    pub(super) fn new(setup: Setup, servers: Range<usize>) -> Self {
        let all = setup.roles.servers();
        Self {
            servers,
            inflight: InFlight::new(all),
            prefixes: Prefixes::new(all, setup.blocks),
            rng: SeededRng::new(setup.seed),
        }
    }

    /// Whether only servers that hold the prompt, as `sticky` decides, are candidates.
    fn sticks(&self, sticky: &[bool]) -> bool {
        let least = |wanted: bool| {
            let loads = self.inflight.loads()[self.servers.clone()]
                .iter()
                .zip(sticky)
                .filter(|(_, sticky)| **sticky == wanted);
            loads.map(|(load, _)| load.tokens).min()
        };
        match (least(true), least(false)) {
            (Some(held), Some(other)) => held as f64 - other as f64 <= PENALTY_TOKENS,
            (held, _) => held.is_some(),
        }
    }

    /// Chooses a server, and counts the prompt there until its first token.
    pub(super) fn choose(&mut self, at: Moment<'_>, arrival: &Arrival<'_>) -> Option<usize> {
        let Arrival {
            request,
            prompt_tokens,
            blocks,
            ..
        } = *arrival;
        let Range { start, .. } = self.servers;
        let matched = |server: usize| self.prefixes.matched(server, blocks);
        let matched: Vec<usize> = self.servers.clone().map(matched).collect();
        let total = blocks.len().max(1) as f64;
        let sticky: Vec<bool> = matched
            .iter()
            .map(|matched| *matched as f64 / total >= AFFINITY)
            .collect();
        let sticks = self.sticks(&sticky);
        let uncached =
            |server: usize| prompt_tokens - matched[server - start] * at.fleet.block_tokens();
        let load = |server: usize| {
            let tokens = self.inflight.loads()[server].tokens + uncached(server);
            (server, (tokens as f64 / FULL_TOKENS).min(1.0))
        };
        let candidates = self.servers.clone();
        let candidates = candidates.filter(|server| !sticks || sticky[server - start]);
        let server = least(candidates.map(load), &mut self.rng)?;
        self.inflight.sent(request, server, uncached(server));
        self.learn(server, blocks);
        Some(server)
    }

    /// A prompt of these blocks went to a server.
    pub(super) fn learn(&mut self, server: usize, blocks: &[u64]) {
        self.prefixes.learn(server, blocks);
    }

    /// The first token of a prompt that was sent to `server` is here.
    pub(super) fn answered(&mut self, request: RequestIndex, server: usize) {
        self.inflight.first_token(request, server);
    }
}

impl Dispatcher for LlmD {
    fn arrived(&mut self, at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        let server = self.choose(at, arrival);
        placements.extend(server.map(|server| Placement::whole(arrival.request, server)));
    }

    fn first_token(&mut self, _at: Moment<'_>, seen: FirstToken, _placements: &mut Vec<Placement>) {
        self.answered(seen.request, seen.server);
    }

    fn finished(&mut self, _at: Moment<'_>, seen: Finished, _placements: &mut Vec<Placement>) {
        self.inflight.finished(seen.request, seen.server);
    }
}
