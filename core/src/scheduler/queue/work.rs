//! Queued work: by position, the service of the queued requests that cost least there.
//!
//! A request counts from its examination (on arrival, or in a plan) until the next plan of its
//! eligible set begins or it leaves the queue, at the endpoint where it cost least then. Requests
//! behind the horizon of the last plan do not count.

/// See the module. Positions are those of the pool that was applied last.
#[derive(Clone, Debug, Default)]
pub(super) struct QueuedWork {
    seconds: Vec<f64>,
    /// Parallel: how many requests that is of. Without any the seconds are exactly 0.
    requests: Vec<u32>,
}

impl QueuedWork {
    /// None, of a pool with this number of endpoints.
    pub(super) fn none(endpoints: usize) -> Self {
        Self {
            seconds: vec![0.0; endpoints],
            requests: vec![0; endpoints],
        }
    }

    /// Seconds, by position.
    pub(super) fn seconds(&self) -> &[f64] {
        &self.seconds
    }

    /// Whether any request costs least there.
    pub(super) fn is_wanted(&self, position: usize) -> bool {
        self.requests[position] > 0
    }

    /// A request of `service` seconds costs least there.
    pub(super) fn add(&mut self, position: u32, service: f64) {
        self.seconds[position as usize] += service;
        self.requests[position as usize] += 1;
    }

    /// A request that was added counts no more.
    pub(super) fn remove(&mut self, position: u32, service: f64) {
        let position = position as usize;
        self.requests[position] -= 1;
        // Nothing is left of rounding when the last one leaves.
        self.seconds[position] = if self.requests[position] == 0 {
            0.0
        } else {
            (self.seconds[position] - service).max(0.0)
        };
    }
}
