//! What is known about one endpoint between two choices, besides what the scheduler learns.

use std::time::Duration;

use hermes_core::{
    ejection::EndpointHealth,
    load::{EngineSample, Health},
    policy::EjectionPolicy,
    scheduler::CacheCounters,
};

use super::serving_process::{ProcessChange, ServingProcess};
use crate::engines::{ProbeFailure, Scraped};

/// A request that succeeded within this time proves that the endpoint can be reached and serves: a
/// probe that cannot reach it from here, or a health page that says otherwise, does not count.
const REACHED: Duration = Duration::from_secs(5);

/// One endpoint.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) breaker: EndpointHealth,
    /// The newest figures, and when they came.
    newest: Option<(EngineSample, Duration)>,
    /// The engine says that it sleeps: a request would fail, or wake it.
    asleep: bool,
    /// Its health page says that it serves nothing yet.
    pub(super) is_loading: bool,
    process: ServingProcess,
    /// Tokens in a block of its KV cache, once reported.
    pub(super) block_size: Option<u32>,
    /// Schedulers that it has, once reported.
    pub(super) schedulers: Option<u32>,
    /// When a request last succeeded there.
    succeeded: Option<Duration>,
}

/// What a scrape changes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ScrapeChanges {
    /// Which process answers.
    pub(super) process: ProcessChange,
    /// Tokens that its KV cache holds.
    pub(super) capacity: Option<u64>,
    /// Its counters of its prefix cache.
    pub(super) counters: Option<CacheCounters>,
}

// === EndpointState ===

impl EndpointState {
    pub(super) fn new(policy: EjectionPolicy) -> Self {
        Self {
            breaker: EndpointHealth::new(policy),
            newest: None,
            asleep: false,
            is_loading: false,
            process: ServingProcess::default(),
            block_size: None,
            schedulers: None,
            succeeded: None,
        }
    }

    /// Takes in what one scrape brought.
    pub(super) fn observe(
        &mut self,
        outcome: &Result<Scraped, ProbeFailure>,
        now: Duration,
    ) -> ScrapeChanges {
        match outcome {
            Ok(scraped) => {
                self.breaker.probe_ok(now);
                self.asleep = scraped.asleep == Some(true);
                self.block_size = scraped.cache.block_size.or(self.block_size);
                self.schedulers = scraped.schedulers.or(self.schedulers);
                self.newest =
                    (scraped.sample != EngineSample::default()).then_some((scraped.sample, now));
                self.news(scraped)
            }
            Err(failure) => {
                // Else it answers, if not as it should: its figures grow stale by themselves.
                if *failure == ProbeFailure::Refused && !self.was_reached(now) {
                    self.breaker.probe_failed();
                }
                ScrapeChanges::default()
            }
        }
    }

    /// A request succeeded there.
    pub(super) fn succeeded(&mut self, now: Duration) {
        self.succeeded = Some(now);
        self.breaker.on_success(now);
    }

    fn was_reached(&self, now: Duration) -> bool {
        let succeeded = self.succeeded;
        succeeded.is_some_and(|succeeded| now.saturating_sub(succeeded) < REACHED)
    }

    /// Its figures, unless they are too old.
    pub(super) fn sample(&self, now: Duration, stale_after: Duration) -> Option<EngineSample> {
        let (sample, at) = self.newest?;
        (now.saturating_sub(at) <= stale_after).then_some(sample)
    }

    pub(super) fn sample_age(&self, now: Duration) -> Option<Duration> {
        self.newest.map(|(_, at)| now.saturating_sub(at))
    }

    pub(super) fn health(&self, now: Duration) -> Health {
        // A page that says no is wrong about an endpoint that serves.
        let is_loading = self.is_loading && !self.was_reached(now);
        if self.asleep || is_loading {
            Health::Down
        } else {
            self.breaker.health(now)
        }
    }

    fn news(&mut self, scraped: &Scraped) -> ScrapeChanges {
        let counters = scraped.prefix_queries.zip(scraped.prefix_hits);
        let process = self.process.observe(scraped.started, counters);
        // Those of several engines do not add up to anything.
        let counters = counters.filter(|_| !self.process.is_shared());
        let counters = counters.map(|(looked_up, found)| CacheCounters {
            looked_up: looked_up as u64,
            found: found as u64,
        });
        let cache = scraped.cache;
        let capacity = cache
            .block_size
            .zip(cache.num_blocks)
            .map(|(size, blocks)| u64::from(size).saturating_mul(blocks));
        ScrapeChanges {
            process,
            capacity,
            counters,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engines::CacheInfo;

    fn scraped(started: Option<f64>, queries: f64, hits: f64) -> Result<Scraped, ProbeFailure> {
        let cache = CacheInfo {
            block_size: Some(16),
            num_blocks: Some(100),
        };
        Ok(Scraped {
            started,
            prefix_queries: Some(queries),
            prefix_hits: Some(hits),
            cache,
            ..Scraped::default()
        })
    }

    fn counters(looked_up: u64, found: u64) -> CacheCounters {
        CacheCounters { looked_up, found }
    }

    #[test]
    fn a_restart_shows_in_the_start_time_or_in_counters_that_went_back() {
        let mut slot = EndpointState::new(EjectionPolicy::default());
        let mut observe =
            |started, queries, hits| slot.observe(&scraped(started, queries, hits), Duration::ZERO);
        let first = observe(Some(1e9), 100.0, 40.0);
        assert_eq!(
            first,
            ScrapeChanges {
                process: ProcessChange::default(),
                capacity: Some(1_600),
                counters: Some(counters(100, 40))
            }
        );
        let second = observe(Some(1e9 + 0.4), 300.0, 90.0);
        assert_eq!(
            (second.process.restarted, second.counters),
            (false, Some(counters(300, 90)))
        );
        assert!(observe(Some(1e9 + 60.0), 400.0, 95.0).process.restarted);
        assert!(observe(None, 10.0, 0.0).process.restarted);
        assert!(!observe(None, 10.0, 0.0).process.restarted);
    }
}
