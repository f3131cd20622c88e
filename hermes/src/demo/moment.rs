//! What there is to see at one moment of a phase, as plain numbers.

use std::time::Duration;

use hermes_engine_sim::{EngineHandle, EngineStats};

use super::{STRATEGIES, outcome::Outcome, scene::Scene};

/// Everything that a view shows.
#[derive(Debug)]
pub(super) struct Moment {
    /// The strategy at work.
    pub(super) strategy: &'static str,
    /// Since its phase began.
    pub(super) elapsed: Duration,
    /// Of the whole demo, `0.0..=1.0`.
    pub(super) progress: f64,
    /// Where requests go.
    pub(super) router: String,
    /// The engines, in order.
    pub(super) engines: Vec<EngineRow>,
    /// The strategies so far, the one at work last.
    pub(super) outcomes: Vec<Outcome>,
}

/// One engine.
#[derive(Clone, Debug)]
pub(super) struct EngineRow {
    /// Its address.
    pub(super) name: String,
    /// 1 is a full-speed engine.
    pub(super) speed: f64,
    /// Requests that run or wait there.
    pub(super) in_flight: usize,
    /// Of its KV blocks, those that running requests hold, `0.0..=1.0`.
    pub(super) kv_usage: f64,
    /// Of the prompt tokens that it got, those that were cached, `0.0..=1.0`.
    pub(super) hit_rate: f64,
    /// Of all requests of the phase, `0.0..=1.0`.
    pub(super) share: f64,
}

impl Moment {
    /// `now` is the strategy at work; `time` is how far its phase is, and how long it takes.
    pub(super) fn of(
        now: Outcome,
        time: (Duration, Duration),
        scene: &Scene,
        before: &[Outcome],
    ) -> Self {
        let (elapsed, whole) = time;
        let part = (elapsed.as_secs_f64() / whole.as_secs_f64()).min(1.0);
        Self {
            strategy: now.strategy,
            elapsed,
            progress: (before.len() as f64 + part) / STRATEGIES.len() as f64,
            router: scene.router(),
            engines: rows(scene.engines()),
            outcomes: before.iter().cloned().chain([now]).collect(),
        }
    }
}

fn rows(engines: &[EngineHandle]) -> Vec<EngineRow> {
    let stats: Vec<EngineStats> = engines.iter().map(EngineHandle::stats).collect();
    let total: u64 = stats.iter().map(|stats| stats.requests).sum();
    let row = |(engine, stats): (&EngineHandle, &EngineStats)| EngineRow {
        name: engine.addr().to_string(),
        speed: engine.config().speed,
        in_flight: stats.running + stats.waiting,
        kv_usage: ratio(stats.used_blocks as f64, engine.config().blocks as f64),
        hit_rate: ratio(stats.cached_tokens as f64, stats.prompt_tokens as f64),
        share: ratio(stats.requests as f64, total as f64),
    };
    engines.iter().zip(&stats).map(row).collect()
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 {
        (part / whole).clamp(0.0, 1.0)
    } else {
        0.0
    }
}
