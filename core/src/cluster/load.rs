//! How busy and how healthy one endpoint is.

use serde::Serialize;

/// Everything a choice may read about one endpoint that changes from second to second.
///
/// `Copy` and small on purpose: a choice reads one per candidate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Load {
    /// Requests of all proxies that were sent there, or booked, and have not ended.
    pub in_flight: u32,
    /// Uncached prompt tokens of those requests whose first byte has not come: prefill work still
    /// to do there.
    pub pending_tokens: u64,
    /// Fresh figures from the engine itself; `None` when it gives none or they are too old to
    /// trust.
    pub sample: Option<EngineSample>,
    /// Whether it may be chosen.
    pub health: Health,
}

/// Figures from an engine's own metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct EngineSample {
    /// Requests in the engine's own queue.
    pub waiting: Option<u32>,
    /// Requests in the running batch.
    pub running: Option<u32>,
    /// Share of KV-cache memory in use, 0..=1.
    pub kv_usage: Option<f32>,
}

/// Whether, and how much, an endpoint takes part in choices.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "share")]
pub enum Health {
    /// Chosen freely.
    Up,
    /// Back after a failure: chosen for this share of its turns, 0..1, growing to `Up` (slow
    /// start).
    Warming(f32),
    /// Chosen only when nothing better is left.
    Down,
}

// === Load ===

impl Default for Load {
    fn default() -> Self {
        Self {
            in_flight: 0,
            pending_tokens: 0,
            sample: None,
            health: Health::Up,
        }
    }
}

// === Health ===

impl Health {
    /// Its name in metrics and explanations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Warming(_) => "warming",
            Self::Down => "down",
        }
    }

    /// The less available of two states.
    #[must_use]
    pub const fn worse(self, other: Self) -> Self {
        match (self, other) {
            (Self::Down, _) | (_, Self::Down) => Self::Down,
            (Self::Warming(a), Self::Warming(b)) => Self::Warming(a.min(b)),
            (Self::Warming(share), Self::Up) | (Self::Up, Self::Warming(share)) => {
                Self::Warming(share)
            }
            (Self::Up, Self::Up) => Self::Up,
        }
    }

    /// Whether an endpoint is up and takes no turn: it cools down from overload.
    #[must_use]
    pub fn is_cooling(self) -> bool {
        matches!(self, Self::Warming(share) if share <= 0.0)
    }

    /// Whether an endpoint takes turns at all: it is up, or warms up.
    #[must_use]
    pub fn takes_turns(self) -> bool {
        self != Self::Down && !self.is_cooling()
    }

    /// Whether an endpoint takes its turn, given a number drawn from `0.0..1.0`.
    #[must_use]
    pub fn admits(self, draw: f32) -> bool {
        match self {
            Self::Up => true,
            Self::Warming(share) => draw < share,
            Self::Down => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warming_endpoint_takes_its_share_of_turns() {
        let taken = (0..100u8)
            .filter(|turn| Health::Warming(0.25).admits(f32::from(*turn) / 100.0))
            .count();
        assert_eq!(taken, 25);
        assert!(Health::Up.admits(0.999));
        assert!(!Health::Down.admits(0.0));
    }
}
