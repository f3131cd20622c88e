//! A lower bound of every policy: each request alone on an idle server of the fleet's highest
//! speed, with the longest prefix cached that any request before it had.
//!
//! No router reaches it. It has one cache that holds everything for ever and a server for each
//! request, so that what separates a policy from it is the waiting and the recomputing that a
//! finite fleet costs. With step time, prefill rate and the tokens of one step as the server has
//! them.

use std::collections::HashSet;
use std::time::Duration;

use hermes_engine_sim::EngineConfig;
use hermes_engine_sim::model::scheduler::Step;

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
        sum += alone(engine, prompt_tokens - cached * block_tokens).as_secs_f64();
        seen.extend(&request.blocks[..request.blocks.len().min(prompt_tokens / block_tokens)]);
    }
    sum / traffic.requests().len().max(1) as f64
}

/// How long a server takes for this number of prompt tokens if it does nothing else.
fn alone(engine: &EngineConfig, tokens: usize) -> Duration {
    let budget = engine.step_budget;
    let step = |prefill_tokens| {
        let step = Step {
            prefill_tokens,
            ..Step::default()
        };
        engine.duration(step, 1.0)
    };
    let rest = tokens % budget;
    let full = u32::try_from(tokens / budget).unwrap_or(u32::MAX);
    let last = if rest > 0 { step(rest) } else { Duration::ZERO };
    step(budget).saturating_mul(full) + last
}
