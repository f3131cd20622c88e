//! What the routers that are built on the Gateway API inference extension have in common: when they
//! scrape, how much their index holds, and how they compare queues.
//!
//! Source: `queue-scorer` and `prefix-cache-scorer` of the extension, versions 1.0 to 1.5.

use std::time::Duration;

use crate::simulate::dispatcher::Sample;

/// The time between two scrapes.
pub(super) const SCRAPES: Duration = Duration::from_millis(50);
/// Tokens that the index remembers of each server.
pub(super) const INDEX_TOKENS: usize = 31_250 * 64;
/// Tokens of a prompt that are matched.
pub(super) const MATCHED_TOKENS: usize = 256 * 64;

/// `(max waiting − waiting) / (max waiting − min waiting)` over `samples`, for one of them; 1 where
/// all are equal.
pub(super) fn queue_score(samples: &[Sample], of: usize) -> f64 {
    let waiting = |sample: &Sample| sample.waiting;
    let most = samples.iter().map(waiting).max().unwrap_or_default();
    let fewest = samples.iter().map(waiting).min().unwrap_or_default();
    if most == fewest {
        1.0
    } else {
        (most - samples[of].waiting) as f64 / (most - fewest) as f64
    }
}
