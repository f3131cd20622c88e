//! What a choice reads of one endpoint: a few numbers, kept beside those of all others. A choice
//! among a thousand endpoints reads them in a row, and nothing else of an engine.

use std::time::Duration;

use super::lanes::PendingPrefill;
use crate::scheduler::speed::PrefillFit;

/// See the module. As of the last change of the endpoint, or of the usual speed; what depends on
/// the time is computed from it.
#[derive(Clone, Copy, Debug)]
pub(in crate::scheduler) struct EndpointTerms {
    /// Requests in flight there.
    pub(in crate::scheduler) in_flight: u32,
    /// Its speed, as it counts.
    pub(in crate::scheduler) fit: PrefillFit,
    /// Seconds per uncached token, in one lane.
    pub(in crate::scheduler) per_token: f64,
    /// How much a prompt delays the next there: φ, 0..=1.
    pub(in crate::scheduler) interference: f64,
    /// The share of it that one lane is.
    pub(in crate::scheduler) lane_share: f64,
    /// Seconds of prefill that it was given lately.
    pub(in crate::scheduler) recent_prefill: f64,
    /// Prompts of ours before the next one.
    pub(super) pending: PendingPrefill,
    /// Seconds of requests of other clients in its queue.
    pub(super) foreign: f64,
}

impl EndpointTerms {
    /// Seconds until a prompt that is sent now begins, behind ours, if one is computed after the
    /// other.
    pub(in crate::scheduler) fn pending(&self, now: Duration) -> f64 {
        self.pending.at(now.as_secs_f64())
    }

    /// Seconds by which a prompt that is sent at `now`, in seconds, is delayed, behind ours and
    /// those of other clients, and `queued` seconds that are sent before it.
    pub(in crate::scheduler) fn queue_delay(&self, queued: f64, now: f64) -> f64 {
        let later = (queued + self.foreign) * self.lane_share;
        self.interference * (self.pending.at(now) + later)
    }
}
