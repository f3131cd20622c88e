//! Which way a pool with pairs leans: whether its prefill or its decode endpoints are what is short.

use super::Fleet;
use crate::snapshot::Role;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoolPressure {
    /// Seconds of prefill that are booked or queued, for each lane of the endpoints that compute
    /// prompts for others or serve whole requests.
    pub prefill_seconds: f64,
    /// The share of KV memory in use, 0..=1, of the endpoints that generate answers and report it,
    /// where 1 is what they take without preempting requests; 0 if none does.
    pub decode_share: f64,
}

impl Fleet {
    /// With `queued` seconds of prefill in the queue; `None` of a pool without pairs.
    pub(in crate::scheduler) fn pressure(&self, queued: f64) -> Option<PoolPressure> {
        if self.picker.pair_groups() == 0 {
            return None;
        }
        let (mut lanes, mut seconds) = (0.0, queued);
        let (mut reporting, mut used) = (0.0, 0.0);
        for (position, endpoint) in self.pool().endpoints.iter().enumerate() {
            let (engine, terms) = (&self.engines[position], &self.terms[position]);
            if !matches!(endpoint.role, Role::Decode | Role::Leader) {
                lanes += f64::from(engine.lanes());
                seconds += self.flights[position].tokens as f64 * terms.per_token;
            }
            if !matches!(endpoint.role, Role::Prefill | Role::Leader)
                && let Some(share) = engine.used_share()
            {
                reporting += 1.0;
                used += share;
            }
        }
        Some(PoolPressure {
            prefill_seconds: seconds / f64::max(lanes, 1.0),
            decode_share: used / f64::max(reporting, 1.0),
        })
    }
}
