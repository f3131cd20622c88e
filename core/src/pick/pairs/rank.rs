//! How well a decode endpoint can take a request over, by its load alone.

use super::Distance;
use crate::{
    load::{EngineSample, Health, Load},
    rng::SeededRng,
};

/// Share of the KV cache above which a decode endpoint is full: it preempts requests soon.
const FULL: f32 = 0.95;

/// How well a decode endpoint takes a request over: less is better, and those that are down come
/// last.
pub(crate) trait PartnerRank: PartialOrd {
    fn is_down(&self) -> bool;
}

/// See the module: less is better. What a picker knows; the scheduler ranks by
/// [what it learned](crate::scheduler).
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct DecodeRank {
    tier: HealthRank,
    is_full: bool,
    /// The requests that it would generate for at once, per share of its memory that is free. A
    /// larger batch makes every token slower, and memory that runs out preempts requests. One that
    /// is near may have up to one more.
    crowd: f32,
}

/// The better state is the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HealthRank {
    /// It takes its turn.
    Ready,
    /// It warms up, and it is not its turn, or it cools down.
    Warming,
    Down,
}

impl HealthRank {
    /// `draw` decides whether it is the turn of one that warms up.
    pub(crate) fn of(health: Health, draw: f32) -> Self {
        match health {
            Health::Down => Self::Down,
            health if health.admits(draw) => Self::Ready,
            Health::Up | Health::Warming(_) => Self::Warming,
        }
    }
}

impl PartnerRank for DecodeRank {
    fn is_down(&self) -> bool {
        self.tier == HealthRank::Down
    }
}

impl DecodeRank {
    /// Whether it is up, and takes a prompt without preempting others.
    pub(super) fn is_ready(&self) -> bool {
        self.tier == HealthRank::Ready && !self.is_full
    }

    /// Of a decode endpoint at this distance from where the prompt is computed.
    pub(super) fn of(load: Load, distance: Distance, rng: &mut SeededRng) -> Self {
        let Load {
            in_flight,
            sample,
            health,
            ..
        } = load;
        let sampled = |of: fn(EngineSample) -> Option<u32>| sample.and_then(of).unwrap_or(0);
        // Requests of other clients are in the sample only; ours of this moment are in flight only.
        let sampled = sampled(|sample| sample.running) + sampled(|sample| sample.waiting);
        let batch = in_flight.max(sampled);
        let used = sample.and_then(|sample| sample.kv_usage).unwrap_or(0.0);
        Self {
            tier: HealthRank::of(health, rng.unit()),
            is_full: used >= FULL,
            crowd: ((batch + 1) as f32 - distance.handicap()) / (1.0 - used.min(FULL)),
        }
    }
}
