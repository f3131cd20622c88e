//! A lower bound of every policy: each request alone on an idle server of the fleet's highest
//! speed, with the longest prefix cached that any request before it had.
//!
//! No router reaches it. It has one cache that holds everything for ever and a server for each
//! request, so that what separates a policy from it is the waiting and the recomputing that a
//! finite fleet costs. With step time, prefill rate and the tokens of one step as the server has
//! them.

use std::collections::HashSet;

use super::server::reusable;
use super::settings::Settings;
use super::traffic::Traffic;

/// The bound of the mean time to first token, in seconds; zero without requests.
#[must_use]
pub fn lower_bound(settings: &Settings, traffic: &Traffic) -> f64 {
    let block_tokens = traffic.block_tokens();
    let engines = settings.engines(block_tokens);
    let fastest = engines.iter().max_by(|a, b| a.speed.total_cmp(&b.speed));
    let Some(engine) = fastest else { return 0.0 };
    let memory = settings.blocks(block_tokens) * block_tokens;
    let mut seen: HashSet<u64> = HashSet::new();
    let mut sum = 0.0;
    for request in traffic.requests() {
        let (prompt_tokens, _) = request.clipped(memory);
        let usable = reusable(&request.blocks, prompt_tokens, block_tokens);
        let cached = usable
            .iter()
            .take_while(|&block| seen.contains(block))
            .count();
        sum += engine
            .time_alone(prompt_tokens - cached * block_tokens)
            .as_secs_f64();
        seen.extend(&request.blocks[..request.blocks.len().min(prompt_tokens / block_tokens)]);
    }
    sum / traffic.requests().len().max(1) as f64
}
