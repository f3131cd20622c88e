//! How much a proxy takes on at once: requests, and bytes of their bodies.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// Bytes of request bodies that one proxy holds at most. Bodies are held until their answer has begun, because they
/// may have to be sent again.
const MAX_HELD_BYTES: u64 = 2 << 30;

/// Counts what is inside, from admission to the last byte of the answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct AdmissionLimit(Arc<AdmittedTotals>);

#[derive(Debug, Default)]
struct AdmittedTotals {
    requests: AtomicU32,
    bytes: AtomicU64,
}

/// One request inside, with its body's bytes; leaves when dropped.
#[derive(Debug)]
pub(crate) struct AdmissionPermit {
    inside: Arc<AdmittedTotals>,
    bytes: u64,
}

impl AdmissionLimit {
    /// Lets a request in while fewer than `limit` are inside. The limit may change from call to call.
    pub(crate) fn enter(&self, limit: u32) -> Option<AdmissionPermit> {
        let inside = self.0.requests.fetch_add(1, Ordering::Relaxed);
        // Counted already: dropped again if it was one too many.
        let permit = AdmissionPermit {
            inside: Arc::clone(&self.0),
            bytes: 0,
        };
        (inside < limit).then_some(permit)
    }
}

impl AdmissionPermit {
    /// Counts more bytes of the body; says whether all bodies together still fit.
    pub(crate) fn hold(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        self.inside.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_HELD_BYTES
    }
}

impl Drop for AdmissionPermit {
    fn drop(&mut self) {
        self.inside.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.inside.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_holder_leaves() {
        let gate = AdmissionLimit::default();
        let first = gate.enter(2).expect("free");
        let _second = gate.enter(2).expect("free");
        assert!(gate.enter(2).is_none());
        drop(first);
        assert!(gate.enter(2).is_some());
    }

    #[test]
    fn bodies_that_do_not_fit_together_are_noticed_and_leave_with_their_requests() {
        let gate = AdmissionLimit::default();
        let mut large = gate.enter(9).expect("free");
        assert!(large.hold(MAX_HELD_BYTES - 10));
        let mut small = gate.enter(9).expect("free");
        assert!(small.hold(10) && !small.hold(1));
        drop((large, small));
        assert!(gate.enter(9).expect("free").hold(MAX_HELD_BYTES));
        assert_eq!(gate.0.bytes.load(Ordering::Relaxed), 0);
    }
}
