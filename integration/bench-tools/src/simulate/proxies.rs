//! Several proxies in front of one fleet, none of which knows what the others do.

use std::time::Duration;

use hermes_core::rng::SeededRng;

use super::dispatcher::{
    Arrival, Dispatcher, Finished, FirstToken, Moment, Placement, Prefilled, RequestIndex, Sample,
};

/// Dispatchers with separate knowledge. Each request reaches one of them, by lot, and stays with
/// it.
pub struct Proxies {
    each: Vec<Box<dyn Dispatcher>>,
    rng: SeededRng,
    /// Which proxy has a request, by request.
    owners: Vec<usize>,
}

impl Proxies {
    /// Spreads requests over `each`, which must not be empty.
    #[must_use]
    pub fn new(each: Vec<Box<dyn Dispatcher>>, seed: u64) -> Self {
        Self {
            each,
            rng: SeededRng::new(seed),
            owners: Vec::new(),
        }
    }

    fn owner(&mut self, request: RequestIndex) -> &mut dyn Dispatcher {
        &mut *self.each[self.owners[request]]
    }
}

impl Dispatcher for Proxies {
    fn arrived(&mut self, at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        self.owners.push(self.rng.below(self.each.len()));
        self.owner(arrival.request).arrived(at, arrival, placements);
    }

    fn prefilled(&mut self, at: Moment<'_>, seen: Prefilled, placements: &mut Vec<Placement>) {
        self.owner(seen.request).prefilled(at, seen, placements);
    }

    fn first_token(&mut self, at: Moment<'_>, seen: FirstToken, placements: &mut Vec<Placement>) {
        self.owner(seen.request).first_token(at, seen, placements);
    }

    fn finished(&mut self, at: Moment<'_>, seen: Finished, placements: &mut Vec<Placement>) {
        self.owner(seen.request).finished(at, seen, placements);
    }

    fn sample_interval(&self) -> Option<Duration> {
        self.each
            .iter()
            .filter_map(|proxy| proxy.sample_interval())
            .min()
    }

    fn sampled(&mut self, at: Moment<'_>, samples: &[Sample], placements: &mut Vec<Placement>) {
        for proxy in &mut self.each {
            proxy.sampled(at, samples, placements);
        }
    }

    fn wake_at(&self) -> Option<Duration> {
        self.each.iter().filter_map(|proxy| proxy.wake_at()).min()
    }

    fn wake(&mut self, at: Moment<'_>, placements: &mut Vec<Placement>) {
        for proxy in &mut self.each {
            if proxy.wake_at().is_some_and(|due| due <= at.now) {
                proxy.wake(at, placements);
            }
        }
    }
}
