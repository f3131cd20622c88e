//! How discovery itself is doing: for readiness, metrics and people.

use std::sync::Arc;

use tokio::time::Instant;

/// The health of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryStatus {
    /// One per watched kind.
    pub watches: Vec<WatchStatus>,
    /// How many endpoints the sink got last; `None` before the first set.
    pub endpoints: Option<usize>,
    /// How many of them Kubernetes calls not ready, as it does most of their peers.
    pub doubted: usize,
    /// Ready addresses that could not be used: no port matches, or the role label is not
    /// understood.
    pub left_out: usize,
}

/// The health of the watch on one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchStatus {
    /// Plural name of the kind: `services`, `endpointslices` or `pods`.
    pub kind: &'static str,
    /// Whether the kind was listed completely at least once.
    pub synced: bool,
    /// Set while the watch fails. What was known stays in force meanwhile.
    pub failure: Option<WatchFailure>,
    /// Failures since the start, for a counter.
    pub failures: u64,
}

/// Why a watch does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchFailure {
    /// The last error.
    pub error: Arc<str>,
    /// When the first of the errors in a row happened.
    pub since: Instant,
}

// === DiscoveryStatus ===

impl DiscoveryStatus {
    pub(crate) fn new(kinds: &[&'static str]) -> Self {
        let watches = kinds.iter().map(|&kind| WatchStatus {
            kind,
            synced: false,
            failure: None,
            failures: 0,
        });
        Self {
            watches: watches.collect(),
            endpoints: None,
            doubted: 0,
            left_out: 0,
        }
    }

    /// Whether every kind was listed completely at least once.
    #[must_use]
    pub fn synced(&self) -> bool {
        !self.watches.is_empty() && self.watches.iter().all(|watch| watch.synced)
    }

    /// The failure that has lasted longest, with the kind it concerns.
    #[must_use]
    pub fn failure(&self) -> Option<(&'static str, &WatchFailure)> {
        let failures = self
            .watches
            .iter()
            .filter_map(|watch| Some((watch.kind, watch.failure.as_ref()?)));
        failures.min_by_key(|(_, failure)| failure.since)
    }
}

// === WatchStatus ===

impl WatchStatus {
    pub(crate) fn works(&mut self) -> bool {
        let recovered = self.failure.take().is_some();
        let first = !std::mem::replace(&mut self.synced, true);
        recovered || first
    }

    pub(crate) fn fails(&mut self, error: &str, now: Instant) {
        let since = self.failure.as_ref().map_or(now, |failure| failure.since);
        self.failure = Some(WatchFailure {
            error: error.into(),
            since,
        });
        self.failures += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_source_is_synced_once_every_kind_is() {
        let mut status = DiscoveryStatus::new(&["services", "endpointslices"]);
        assert!(!status.synced());
        assert!(status.watches[0].works());
        assert!(!status.synced());
        assert!(status.watches[1].works());
        assert!(status.synced());
        assert!(!status.watches[1].works(), "nothing new the second time");
    }

    #[test]
    fn a_failure_remembers_when_it_began_and_unsyncs_nothing() {
        let mut status = DiscoveryStatus::new(&["pods"]);
        let began = Instant::now();
        status.watches[0].works();
        status.watches[0].fails("refused", began);
        status.watches[0].fails("timed out", began + Duration::from_secs(5));
        let (kind, failure) = status.failure().unwrap();
        assert_eq!(
            (kind, &*failure.error, failure.since),
            ("pods", "timed out", began)
        );
        assert!(status.synced());
        assert!(status.watches[0].works());
        assert_eq!(status.failure(), None);
        assert_eq!(status.watches[0].failures, 2);
    }
}
