//! What one subscriber has of the structure, and the next message that brings it to the newest.

use std::sync::Arc;

use hermes_core::{
    ledger::ProxyId,
    snapshot::{Snapshot, Version},
};
use hermes_proto::v1::{self, from_control_plane::Message};

use crate::snapshot_encoder::SnapshotEncoder;

/// One subscriber's view.
#[derive(Debug)]
pub(super) struct StructureCursor {
    encoder: Arc<SnapshotEncoder>,
    /// `None` until this replica has one.
    newest: Option<Arc<Snapshot>>,
    /// What the subscriber got last; `None` when it needs a whole snapshot.
    sent: Option<Arc<Snapshot>>,
    /// The last version that was sent whole.
    whole: Option<Version>,
}

// === StructureCursor ===

impl StructureCursor {
    pub(super) fn new(encoder: Arc<SnapshotEncoder>) -> Self {
        Self {
            encoder,
            newest: None,
            sent: None,
            whole: None,
        }
    }

    /// The snapshot that this replica published last.
    pub(super) fn set_newest(&mut self, newest: Arc<Snapshot>) {
        self.newest = Some(newest).filter(|newest| newest.version > Version(0));
    }

    /// What the subscriber got last.
    pub(super) fn sent(&self) -> Option<&Snapshot> {
        self.sent.as_deref()
    }

    /// Whether there is something to send.
    pub(super) fn is_due(&self) -> bool {
        let Some(newest) = &self.newest else {
            return false;
        };
        self.sent
            .as_ref()
            .is_none_or(|sent| sent.version != newest.version)
    }

    /// Whether the subscriber has the newest.
    pub(super) fn is_current(&self) -> bool {
        self.sent.is_some() && !self.is_due()
    }

    /// The message that brings the subscriber to the newest.
    pub(super) fn next(&mut self) -> Option<Message> {
        let newest = Arc::clone(self.newest.as_ref()?);
        let message = match self.sent.take() {
            Some(sent) => Message::Delta(self.encoder.delta(&sent, &newest)),
            None => {
                self.whole = Some(newest.version);
                Message::Snapshot(self.encoder.whole(&newest))
            }
        };
        self.sent = Some(newest);
        Some(message)
    }

    /// The subscriber cannot use a version. It gets the newest one whole; if that is what it cannot
    /// use, the same once more would not help, and it waits for the next.
    pub(super) fn reject(&mut self, reject: &v1::Reject, proxy: ProxyId) {
        let v1::Reject {
            epoch: _,
            version,
            reason,
        } = reject;
        tracing::warn!(
            proxy = proxy.0,
            version,
            reason,
            "proxy cannot use a snapshot"
        );
        if self.whole != Some(Version(*version)) {
            self.sent = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use hermes_proto::Message as _;

    use super::*;

    fn version(number: u64) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            version: Version(number),
            ..Snapshot::default()
        })
    }

    fn reject(number: u64) -> v1::Reject {
        v1::Reject {
            epoch: 0,
            version: number,
            reason: "pools[0].spec: is missing".into(),
        }
    }

    fn structure(first: u64) -> StructureCursor {
        let encoder = Arc::new(SnapshotEncoder::new("replica".into()));
        let mut structure = StructureCursor::new(encoder);
        structure.set_newest(version(first));
        structure
    }

    /// The version of the next message, which has to be a whole snapshot.
    fn next_whole(structure: &mut StructureCursor) -> u64 {
        let Some(Message::Snapshot(bytes)) = structure.next() else {
            panic!("a whole snapshot")
        };
        v1::Snapshot::decode(bytes).expect("a snapshot").version
    }

    #[test]
    fn nothing_is_sent_before_there_is_a_version() {
        assert!(!structure(0).is_due());
    }

    #[test]
    fn a_whole_snapshot_comes_first_and_then_one_delta_over_all_that_was_missed() {
        let mut structure = structure(3);
        assert_eq!(next_whole(&mut structure), 3);
        assert!(!structure.is_due());
        structure.set_newest(version(4));
        structure.set_newest(version(9));
        let Some(Message::Delta(delta)) = structure.next() else {
            panic!("a delta")
        };
        let delta = v1::Delta::decode(delta).expect("a delta");
        assert_eq!((delta.from_version, delta.version), (3, 9));
        assert!(structure.is_current());
    }

    #[test]
    fn a_rejected_delta_is_answered_by_one_whole_snapshot() {
        let mut structure = structure(1);
        structure.next();
        structure.set_newest(version(2));
        structure.next();
        structure.reject(&reject(2), ProxyId(7));
        assert_eq!(next_whole(&mut structure), 2);
        structure.reject(&reject(2), ProxyId(7));
        assert!(
            !structure.is_due(),
            "the same snapshot once more would be rejected once more"
        );
        structure.set_newest(version(3));
        assert!(structure.is_due());
    }
}
