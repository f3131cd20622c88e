//! Snapshots as proxies get them: every message is computed and encoded once, and shared by all
//! subscribers that need it.
//!
//! Invariant: kept are the messages that lead to the newest version, one whole snapshot and a
//! bounded number of deltas. A subscriber that is slow, and then needs another one, costs an
//! encoding of its own.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use hermes_core::{
    delta::SnapshotDelta,
    snapshot::{Snapshot, Version},
};
use hermes_proto::{Message, convert::snapshot_to_wire, v1};
use parking_lot::Mutex;

/// Versions from which deltas to the newest are kept. Subscribers that keep up share one.
const MAX_DELTAS: usize = 16;

/// Encodes the snapshots of one epoch. See the module.
#[derive(Debug)]
pub struct SnapshotEncoder {
    replica: Arc<str>,
    recent: Mutex<RecentEncodings>,
}

/// Filled by the first subscriber that needs it; the others wait for it, as they would have to
/// compute the same. That takes milliseconds for the largest fleets.
type EncodedOnce = Arc<OnceLock<Bytes>>;

/// The messages that lead to one version.
#[derive(Debug, Default)]
struct RecentEncodings {
    to: Version,
    whole: EncodedOnce,
    /// By the version that they apply to, oldest first.
    deltas: VecDeque<(Version, EncodedOnce)>,
}

// === SnapshotEncoder ===

impl SnapshotEncoder {
    /// An encoder for the replica of this name.
    #[must_use]
    pub fn new(replica: Arc<str>) -> Self {
        Self {
            replica,
            recent: Mutex::default(),
        }
    }

    /// The whole snapshot, a `v1.Snapshot`.
    #[must_use]
    pub fn whole(&self, snapshot: &Snapshot) -> Bytes {
        let encoding = self.recent.lock().whole(snapshot.version);
        let encode = || snapshot_to_wire(snapshot, &self.replica).encode_to_vec();
        encoding.get_or_init(|| encode().into()).clone()
    }

    /// What makes `to` of `from`, a `v1.Delta`.
    #[must_use]
    pub fn delta(&self, from: &Snapshot, to: &Snapshot) -> Bytes {
        let encoding = self.recent.lock().delta(from.version, to.version);
        let encode = || v1::Delta::from(&SnapshotDelta::between(from, to)).encode_to_vec();
        encoding.get_or_init(|| encode().into()).clone()
    }
}

// === RecentEncodings ===

impl RecentEncodings {
    fn whole(&mut self, version: Version) -> EncodedOnce {
        if self.leads_to(version) {
            Arc::clone(&self.whole)
        } else {
            EncodedOnce::default()
        }
    }

    fn delta(&mut self, from: Version, to: Version) -> EncodedOnce {
        if !self.leads_to(to) {
            return EncodedOnce::default();
        }
        if let Some((_, known)) = self.deltas.iter().find(|(version, _)| *version == from) {
            return Arc::clone(known);
        }
        if self.deltas.len() == MAX_DELTAS {
            self.deltas.pop_front();
        }
        let encoding = EncodedOnce::default();
        self.deltas.push_back((from, Arc::clone(&encoding)));
        encoding
    }

    /// Whether messages to `version` are kept; those to older versions are dropped.
    fn leads_to(&mut self, version: Version) -> bool {
        if version > self.to {
            *self = Self {
                to: version,
                ..Self::default()
            };
        }
        version == self.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64) -> Snapshot {
        Snapshot {
            version: Version(number),
            ..Snapshot::default()
        }
    }

    fn encoder() -> SnapshotEncoder {
        SnapshotEncoder::new("replica".into())
    }

    fn is_one(a: &Bytes, b: &Bytes) -> bool {
        a.as_ptr() == b.as_ptr()
    }

    #[test]
    fn subscribers_share_one_encoding() {
        let (encoder, old, new) = (encoder(), version(1), version(2));
        let delta = encoder.delta(&old, &new);
        assert!(is_one(&delta, &encoder.delta(&old, &new)));
        let whole = encoder.whole(&new);
        assert!(is_one(&whole, &encoder.whole(&new)));
        let delta = v1::Delta::decode(delta).expect("a delta");
        assert_eq!((delta.from_version, delta.version), (1, 2));
        assert_eq!(v1::Snapshot::decode(whole).expect("whole").version, 2);
    }

    #[test]
    fn a_newer_version_replaces_what_is_kept_and_a_late_subscriber_is_served() {
        let encoder = encoder();
        let before = encoder.delta(&version(1), &version(2));
        let newest = encoder.delta(&version(2), &version(3));
        let late = encoder.delta(&version(1), &version(2));
        assert!(late == before && !is_one(&late, &before));
        assert!(is_one(&newest, &encoder.delta(&version(2), &version(3))));
    }

    #[test]
    fn a_bounded_number_of_deltas_is_kept() {
        let (encoder, newest) = (encoder(), version(1_000));
        let all: Vec<Bytes> = (1..100)
            .map(|from| encoder.delta(&version(from), &newest))
            .collect();
        assert_eq!(encoder.recent.lock().deltas.len(), MAX_DELTAS);
        assert!(is_one(&all[98], &encoder.delta(&version(99), &newest)));
    }
}
