//! What the queued requests want: by position, how many cost least there, and the work of those
//! that were examined last.
//!
//! A request *waits* for the endpoint where it cost least when it was examined last, on arrival or
//! in a plan, until it is examined again or leaves. It *counts as work* there from its examination
//! until the next plan of its eligible set begins: then the plan goes through the requests by
//! urgency, and each has only the work before it ahead. Requests behind the horizon of a plan wait
//! and do not count as work.

/// What is queued for one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::scheduler) struct QueuedDemand {
    /// Seconds of the requests that count as work there.
    pub(in crate::scheduler) seconds: f64,
    /// How many requests that is of. Without any the seconds are exactly 0.
    pub(in crate::scheduler) requests: u32,
    /// Requests that wait for it.
    pub(in crate::scheduler) waiting: u32,
}

/// See the module. Positions are those of the pool that was applied last.
#[derive(Clone, Debug, Default)]
pub(in crate::scheduler) struct QueuedWork(Vec<QueuedDemand>);

impl QueuedWork {
    /// None, of a pool with this number of endpoints.
    pub(in crate::scheduler) fn none(endpoints: usize) -> Self {
        Self(vec![QueuedDemand::default(); endpoints])
    }

    /// What is queued for the endpoint at this position.
    pub(in crate::scheduler) fn at(&self, position: usize) -> QueuedDemand {
        self.0[position]
    }

    /// A request of `service` seconds counts there as work.
    pub(super) fn add(&mut self, position: u32, service: f64) {
        let demand = &mut self.0[position as usize];
        demand.seconds += service;
        demand.requests += 1;
    }

    /// A request that was added counts no more.
    pub(super) fn remove(&mut self, position: u32, service: f64) {
        let demand = &mut self.0[position as usize];
        demand.requests -= 1;
        // Nothing is left of rounding when the last one leaves.
        demand.seconds = if demand.requests == 0 {
            0.0
        } else {
            (demand.seconds - service).max(0.0)
        };
    }

    /// A request waits for this position.
    pub(super) fn wait(&mut self, position: u32) {
        self.0[position as usize].waiting += 1;
    }

    /// A request waits for this position no more.
    pub(super) fn wait_no_more(&mut self, position: u32) {
        self.0[position as usize].waiting -= 1;
    }
}
