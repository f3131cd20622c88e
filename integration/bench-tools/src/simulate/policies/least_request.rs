//! `least-request`: the server with the fewest requests in flight from this router, by lot among
//! equals.

use hermes_core::rng::SeededRng;

use super::Setup;
use super::choice::least;
use super::inflight::InFlight;
use crate::simulate::dispatcher::{Arrival, Dispatcher, Finished, Moment, Placement};

/// Counts requests and looks at all servers.
#[derive(Debug)]
pub(super) struct LeastRequest {
    inflight: InFlight,
    rng: SeededRng,
}

impl LeastRequest {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            inflight: InFlight::new(setup.servers),
            rng: SeededRng::new(setup.seed),
        }
    }
}

impl Dispatcher for LeastRequest {
    fn arrived(&mut self, _at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        let loads = self
            .inflight
            .loads()
            .iter()
            .map(|load| load.requests as f64)
            .enumerate();
        let Some(server) = least(loads, &mut self.rng) else {
            return;
        };
        self.inflight
            .sent(arrival.request, server, arrival.prompt_tokens);
        placements.push(Placement {
            request: arrival.request,
            server,
        });
    }

    fn finished(&mut self, _at: Moment<'_>, seen: Finished, _placements: &mut Vec<Placement>) {
        self.inflight.finished(seen.request, seen.server);
    }
}
