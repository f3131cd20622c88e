//! The share of time in which engines compute prompts: how scarce prefill is, at any set of
//! endpoints.
//!
//! For each endpoint it is a mean over time that fades: `u(t) = busy + faded · e^(−t / MEMORY)`,
//! where `busy` is its present share and `t` counts from an epoch that is common to all. So the
//! mean over a set is one exponential and two sums, and a change of one endpoint is constant time.

use std::time::Duration;

use crate::pick::{EligibleSet, EligibleSetId};

/// How far back it looks: older time counts for less, by a factor e.
const MEMORY: Duration = Duration::from_secs(30);

/// The epoch moves on after this time, which bounds the rounding of `faded`.
const EPOCH: Duration = Duration::from_secs(300);

/// See the module. By position in the pool that was applied last.
#[derive(Clone, Debug)]
pub(super) struct Utilization {
    endpoints: Vec<EndpointShare>,
    /// Over all endpoints: in a pool without pairs, those that serve nothing alone are never busy.
    total: EndpointShare,
    epoch: Duration,
}

/// The terms of one endpoint, or their sums.
#[derive(Clone, Copy, Debug, Default)]
struct EndpointShare {
    busy: f64,
    faded: f64,
}

impl Utilization {
    /// Idle engines.
    pub(super) fn idle(endpoints: usize) -> Self {
        Self {
            endpoints: vec![EndpointShare::default(); endpoints],
            total: EndpointShare::default(),
            epoch: Duration::ZERO,
        }
    }

    /// The pool changed: by new position, the position before, if the endpoint was there.
    pub(super) fn apply(&mut self, before: impl Iterator<Item = Option<usize>>) {
        let share = |before: Option<usize>| {
            before.map_or_else(EndpointShare::default, |before| self.endpoints[before])
        };
        self.endpoints = before.map(share).collect();
        self.sum_up();
    }

    /// From now on this share of an engine, 0..=1, computes prompts.
    pub(super) fn set(&mut self, position: usize, busy: f64, now: Duration) {
        let change = busy - self.endpoints[position].busy;
        if change == 0.0 {
            return;
        }
        if now.saturating_sub(self.epoch) > EPOCH {
            self.move_epoch(now);
        }
        let faded = -change / self.kept(now);
        for share in [&mut self.endpoints[position], &mut self.total] {
            share.busy += change;
            share.faded += faded;
        }
    }

    /// That of one endpoint as of now, 0..=1.
    pub(super) fn at(&self, position: usize, now: Duration) -> f64 {
        self.mean_of(std::iter::once(position), now)
    }

    /// The mean over endpoints as of now, 0..=1; 0 of none.
    pub(super) fn mean_of(&self, positions: impl Iterator<Item = usize>, now: Duration) -> f64 {
        let none = (0u32, EndpointShare::default());
        let (count, sum) = positions.fold(none, |(count, sum), position| {
            (count + 1, sum.plus(self.endpoints[position]))
        });
        let mean = (sum.busy + sum.faded * self.kept(now)) / f64::from(count.max(1));
        mean.clamp(0.0, 1.0)
    }

    /// The mean over a set of a pool without pairs as of now, 0..=1.
    pub(super) fn mean(&self, set: &EligibleSet, now: Duration) -> f64 {
        if set.id() != EligibleSetId::EVERYONE {
            return self.mean_of(set.positions(), now);
        }
        let mean = (self.total.busy + self.total.faded * self.kept(now)) / set.len().max(1) as f64;
        mean.clamp(0.0, 1.0)
    }

    /// What is left of the past since the epoch.
    fn kept(&self, now: Duration) -> f64 {
        (-now.saturating_sub(self.epoch).as_secs_f64() / MEMORY.as_secs_f64()).exp()
    }

    fn move_epoch(&mut self, now: Duration) {
        let kept = self.kept(now);
        for share in &mut self.endpoints {
            share.faded *= kept;
        }
        self.epoch = now;
        self.sum_up();
    }

    fn sum_up(&mut self) {
        let shares = self.endpoints.iter().copied();
        self.total = shares.fold(EndpointShare::default(), EndpointShare::plus);
    }
}

impl EndpointShare {
    fn plus(self, other: Self) -> Self {
        Self {
            busy: self.busy + other.busy,
            faded: self.faded + other.faded,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pick::EligibleSets;

    proptest! {
        /// Against the definition: every endpoint by itself, step by step.
        #[test]
        fn the_mean_of_a_set_is_that_of_its_endpoints_over_fading_time(
            changes in proptest::collection::vec((0usize..4, 0u32..=4, 0u64..200_000), 1..60),
            holders in proptest::collection::btree_set(0usize..4, 1..4),
        ) {
            let (sets, ids) = EligibleSets::new(0..4, [Some(holders.iter().copied().collect())].into_iter());
            let (mut utilization, mut now) = (Utilization::idle(4), Duration::ZERO);
            // The faded mean of each, and its present share.
            let mut model = [(0.0f64, 0.0f64); 4];
            for (position, quarters, ms) in changes {
                now += Duration::from_millis(ms);
                let kept = (-Duration::from_millis(ms).as_secs_f64() / 30.0).exp();
                model.iter_mut().for_each(|(mean, busy)| *mean = *mean * kept + *busy * (1.0 - kept));
                let busy = f64::from(quarters) / 4.0;
                utilization.set(position, busy, now);
                model[position].1 = busy;
                let everyone = model.iter().map(|(mean, _)| mean).sum::<f64>() / 4.0;
                prop_assert!((utilization.mean(sets.everyone(), now) - everyone).abs() < 1e-6);
                let some = holders.iter().map(|&at| model[at].0).sum::<f64>() / holders.len() as f64;
                prop_assert!((utilization.mean(sets.get(ids[0]), now) - some).abs() < 1e-6);
            }
        }
    }
}
