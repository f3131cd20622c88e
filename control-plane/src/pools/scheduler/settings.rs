//! What a pool's scheduler is configured with besides the pool itself.

use std::time::Duration;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SchedulerSettings {
    /// Engine metrics older than this are not used.
    pub(crate) stale_after: Duration,
    /// Prompts that each endpoint computes at once, if that is configured.
    pub(crate) lanes: Option<u32>,
    /// Data-parallel ranks of each endpoint that publish KV events, if that is configured.
    pub(crate) kv_event_ranks: Option<u32>,
}

impl SchedulerSettings {
    /// The lanes of an endpoint whose metrics name `schedulers` schedulers: what is configured
    /// comes before what is reported, and that before what follows from KV events.
    pub(crate) fn lanes(&self, schedulers: Option<u32>) -> u32 {
        self.lanes
            .or(schedulers)
            .or(self.kv_event_ranks)
            .unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configured_lanes_come_before_reported_ones_and_those_before_ranks() {
        let lanes = |lanes, kv_event_ranks, schedulers| {
            let settings = SchedulerSettings {
                lanes,
                kv_event_ranks,
                ..SchedulerSettings::default()
            };
            settings.lanes(schedulers)
        };
        assert_eq!(lanes(Some(2), Some(4), Some(8)), 2);
        assert_eq!(lanes(None, Some(4), Some(8)), 8);
        assert_eq!(lanes(None, Some(4), None), 4);
        assert_eq!(lanes(None, None, None), 1);
    }
}
