//! `power-of-two`: of two servers drawn by lot, the one with fewer requests in flight from this
//! router.
//!
//! Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001; Envoy's
//! `LEAST_REQUEST` with its default `choice_count` of 2.

use hermes_core::rng::SeededRng;

use super::Setup;
use super::inflight::InFlight;
use crate::simulate::dispatcher::{Arrival, Dispatcher, Finished, Moment, Placement};

/// Counts requests and looks at two servers.
#[derive(Debug)]
pub(super) struct PowerOfTwo {
    inflight: InFlight,
    rng: SeededRng,
}

impl PowerOfTwo {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            inflight: InFlight::new(setup.roles.aggregated),
            rng: SeededRng::new(setup.seed),
        }
    }
}

impl Dispatcher for PowerOfTwo {
    fn arrived(&mut self, _at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        let loads = self.inflight.loads();
        let (one, other) = if loads.len() > 1 {
            self.rng.pair(loads.len())
        } else {
            (0, 0)
        };
        let server = if loads[other].requests < loads[one].requests {
            other
        } else {
            one
        };
        self.inflight
            .sent(arrival.request, server, arrival.prompt_tokens);
        placements.push(Placement::whole(arrival.request, server));
    }

    fn finished(&mut self, _at: Moment<'_>, seen: Finished, _placements: &mut Vec<Placement>) {
        self.inflight.finished(seen.request, seen.server);
    }
}
