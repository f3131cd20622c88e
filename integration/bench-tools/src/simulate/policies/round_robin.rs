//! `round-robin`: servers in turn, from one drawn by lot.

use hermes_core::rng::SeededRng;

use super::Setup;
use crate::simulate::dispatcher::{Arrival, Dispatcher, Moment, Placement};

/// Places requests on servers in turn.
#[derive(Debug)]
pub(super) struct RoundRobin {
    next: usize,
    servers: usize,
}

impl RoundRobin {
    pub(super) fn new(setup: Setup) -> Self {
        Self {
            next: SeededRng::new(setup.seed).below(setup.servers),
            servers: setup.servers,
        }
    }
}

impl Dispatcher for RoundRobin {
    fn arrived(&mut self, _at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        placements.push(Placement {
            request: arrival.request,
            server: self.next,
        });
        self.next = (self.next + 1) % self.servers;
    }
}
