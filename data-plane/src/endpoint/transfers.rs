//! What an endpoint's transfers of KV caches to and from partners came to.

use std::sync::atomic::{AtomicU64, Ordering};

use hermes_core::snapshot::EndpointId;

/// As a prefill endpoint, how many decode legs could use what it keeps; as a decode endpoint, when
/// it failed last.
#[derive(Default)]
pub(crate) struct TransferRecord {
    used: AtomicU64,
    /// The partner of the last failure, and what was known of it then; 0 before any.
    last_failure: AtomicU64,
}

impl TransferRecord {
    /// A decode leg has used what this endpoint keeps.
    pub(crate) fn used(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
    }

    /// This endpoint could not use what the partner keeps. Returns whether that says anything new
    /// of this endpoint: it failed with another partner last, or the partner has served since. A
    /// partner that fails again and again says nothing.
    pub(crate) fn failed(&self, partner: EndpointId, record: &Self) -> bool {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let used = record.used.load(Ordering::Relaxed);
        let failure = partner.0.wrapping_mul(ODD) ^ used.wrapping_add(1);
        self.last_failure.swap(failure, Ordering::Relaxed) != failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partner_that_fails_again_and_again_says_nothing_of_a_decode_endpoint() {
        let (decode, bad, good) = (
            TransferRecord::default(),
            TransferRecord::default(),
            TransferRecord::default(),
        );
        let fails_with = |id, record| decode.failed(EndpointId(id), record);
        assert!(fails_with(1, &bad), "either may be the cause");
        assert!(!fails_with(1, &bad) && !fails_with(1, &bad));
        assert!(fails_with(2, &good), "another partner");
        good.used();
        assert!(fails_with(2, &good), "which serves others");
        assert!(!fails_with(2, &good));
    }
}
