//! What is known about one endpoint between two choices.

use std::time::Duration;

use hermes_core::{
    breaker::Breaker,
    load::{Health, Sample},
    policy::BreakerPolicy,
};

use crate::collector::{Failure, Scraped};

/// One endpoint.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) breaker: Breaker,
    /// The newest figures, and when they came.
    newest: Option<(Sample, Duration)>,
    /// The engine says that it sleeps: a request would fail, or wake it.
    asleep: bool,
    /// Tokens in a block of its KV cache, since it told.
    pub(super) block_size: Option<u32>,
}

// === Slot ===

impl Slot {
    pub(super) fn new(policy: BreakerPolicy) -> Self {
        Self { breaker: Breaker::new(policy), newest: None, asleep: false, block_size: None }
    }

    /// Takes in what one scrape brought.
    pub(super) fn observe(&mut self, outcome: &Result<Scraped, Failure>, now: Duration) {
        match outcome {
            Ok(scraped) => {
                self.breaker.probe_ok(now);
                self.asleep = scraped.asleep == Some(true);
                self.block_size = scraped.cache.block_size.or(self.block_size);
                self.newest = (scraped.sample != Sample::default()).then_some((scraped.sample, now));
            }
            Err(Failure::Refused) => self.breaker.probe_failed(),
            // It answers, if not as it should: its figures grow stale by themselves.
            Err(Failure::Timeout | Failure::Broken | Failure::Status(_) | Failure::Garbage | Failure::TooLarge) => {}
        }
    }

    /// Its figures, unless they are too old.
    pub(super) fn sample(&self, now: Duration, stale_after: Duration) -> Option<Sample> {
        let (sample, at) = self.newest?;
        (now.saturating_sub(at) <= stale_after).then_some(sample)
    }

    pub(super) fn sample_age(&self, now: Duration) -> Option<Duration> {
        self.newest.map(|(_, at)| now.saturating_sub(at))
    }

    pub(super) fn health(&self, now: Duration) -> Health {
        if self.asleep { Health::Down } else { self.breaker.health(now) }
    }
}
