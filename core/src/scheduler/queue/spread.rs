//! How many queued requests may be expected to go to the endpoints of one eligible set.
//!
//! Sets overlap: an adapter's holders serve base requests too. Each queued request counts with an
//! equal part at every endpoint of its own set. What is expected at a set is the sum over its
//! endpoints: for everyone that is the whole queue, and for an adapter its own requests and its
//! endpoints' part of the others.

use crate::pick::{EligibleSet, EligibleSetId};

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct QueueSpread {
    /// Queued requests whose set is everyone.
    everyone: usize,
    /// How many endpoints that is.
    endpoints: usize,
    /// Queued requests of other sets.
    others: usize,
    /// Their parts, by position.
    parts: Vec<f64>,
}

impl QueueSpread {
    /// Nothing, in a pool with this number of endpoints.
    pub(super) fn none(endpoints: usize) -> Self {
        Self {
            parts: vec![0.0; endpoints],
            ..Self::default()
        }
    }

    /// A request of this set is queued.
    pub(super) fn add(&mut self, set: &EligibleSet) {
        if set.id() == EligibleSetId::EVERYONE {
            (self.everyone, self.endpoints) = (self.everyone + 1, set.len());
            return;
        }
        self.others += 1;
        let part = 1.0 / set.len().max(1) as f64;
        set.positions().for_each(|at| self.parts[at] += part);
    }

    /// A request of this set is queued no more.
    pub(super) fn remove(&mut self, set: &EligibleSet) {
        if set.id() == EligibleSetId::EVERYONE {
            self.everyone -= 1;
            return;
        }
        self.others -= 1;
        if self.others == 0 {
            // Nothing is left of rounding.
            self.parts.fill(0.0);
            return;
        }
        let part = 1.0 / set.len().max(1) as f64;
        set.positions().for_each(|at| self.parts[at] -= part);
    }

    /// The queued requests that may be expected to go to endpoints of this set.
    pub(super) fn expected(&self, set: &EligibleSet) -> f64 {
        if set.id() == EligibleSetId::EVERYONE {
            return (self.everyone + self.others) as f64;
        }
        let part = set.len() as f64 / self.endpoints.max(1) as f64;
        let others: f64 = set.positions().map(|at| self.parts[at]).sum();
        self.everyone as f64 * part + others.max(0.0)
    }
}
