//! The limit of requests at once, and of the bytes of their bodies.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// Limit of the bytes of request bodies. Bodies are kept for retries until an answer begins, and
/// counted until then.
const MAX_HELD_BYTES: u64 = 2 << 30;

/// Counts admitted requests, from admission to the last byte of the answer.
#[derive(Clone, Debug)]
pub(crate) struct AdmissionLimit(Arc<AdmittedTotals>);

#[derive(Debug)]
struct AdmittedTotals {
    requests: AtomicU32,
    bytes: AtomicU64,
    max_bytes: u64,
}

/// One admitted request with its body's bytes; released when dropped.
#[derive(Debug)]
pub(crate) struct AdmissionPermit {
    totals: Arc<AdmittedTotals>,
    bytes: u64,
}

impl AdmissionLimit {
    /// Bodies may take two thirds of the memory that the process may take, and
    /// [`MAX_HELD_BYTES`] at most: the rest is for connections, and for what is being received.
    pub(crate) fn new(memory_limit: Option<u64>) -> Self {
        let share = memory_limit.map_or(MAX_HELD_BYTES, |limit| limit / 3 * 2);
        Self(Arc::new(AdmittedTotals {
            requests: AtomicU32::new(0),
            bytes: AtomicU64::new(0),
            max_bytes: share.min(MAX_HELD_BYTES),
        }))
    }

    /// Admits a request while fewer than `limit` are admitted. The limit may change from call to
    /// call.
    pub(crate) fn try_acquire(&self, limit: u32) -> Option<AdmissionPermit> {
        let admitted = self.0.requests.fetch_add(1, Ordering::Relaxed);
        // Counted already: dropping it undoes that if it was one too many.
        let permit = AdmissionPermit {
            totals: Arc::clone(&self.0),
            bytes: 0,
        };
        (admitted < limit).then_some(permit)
    }
}

impl AdmissionPermit {
    /// Counts more bytes for the body; returns whether all bodies together are within the limit.
    pub(crate) fn reserve_bytes(&mut self, bytes: u64) -> bool {
        self.bytes += bytes;
        self.totals.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.totals.max_bytes
    }

    /// Bytes that are counted for this request's body.
    #[cfg(test)]
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The body is not kept any more.
    pub(crate) fn release_bytes(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes > 0 {
            self.totals.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for AdmissionPermit {
    fn drop(&mut self) {
        self.release_bytes();
        self.totals.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_permit_can_be_acquired_again() {
        let limit = AdmissionLimit::new(None);
        let first = limit.try_acquire(2).expect("free");
        let _second = limit.try_acquire(2).expect("free");
        assert!(limit.try_acquire(2).is_none());
        drop(first);
        assert!(limit.try_acquire(2).is_some());
    }

    #[test]
    fn bytes_that_are_given_back_are_free_while_their_request_goes_on() {
        let limit = AdmissionLimit::new(None);
        let mut streaming = limit.try_acquire(9).expect("free");
        assert!(streaming.reserve_bytes(MAX_HELD_BYTES));
        streaming.release_bytes();
        let mut next = limit.try_acquire(9).expect("free");
        assert!(next.reserve_bytes(MAX_HELD_BYTES));
        drop(streaming);
        assert_eq!(limit.0.bytes.load(Ordering::Relaxed), MAX_HELD_BYTES);
    }

    #[test]
    fn bodies_take_two_thirds_of_a_containers_memory_at_most() {
        let limit = AdmissionLimit::new(Some(300));
        let mut permit = limit.try_acquire(1).expect("free");
        assert!(permit.reserve_bytes(200) && !permit.reserve_bytes(1));
    }

    #[test]
    fn bytes_of_bodies_are_limited_and_released_with_their_permits() {
        let limit = AdmissionLimit::new(None);
        let mut large = limit.try_acquire(9).expect("free");
        assert!(large.reserve_bytes(MAX_HELD_BYTES - 10));
        let mut small = limit.try_acquire(9).expect("free");
        assert!(small.reserve_bytes(10) && !small.reserve_bytes(1));
        drop((large, small));
        assert!(
            limit
                .try_acquire(9)
                .expect("free")
                .reserve_bytes(MAX_HELD_BYTES)
        );
        assert_eq!(limit.0.bytes.load(Ordering::Relaxed), 0);
    }
}
