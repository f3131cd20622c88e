//! How many retries a pool may afford, so that a failing fleet is not multiplied by its own
//! retries.
//!
//! A token bucket that is filled by requests instead of by time: with a share of 0.2, five requests
//! pay for one retry. It knows nothing of clocks, endpoints or reasons.

use std::sync::atomic::{AtomicU64, Ordering};

/// One retry, in the unit of the bucket.
const RETRY: u64 = 1_000;
/// Retries that a bucket starts with: a quiet pool may retry too.
const RESERVE: u64 = 10;
/// Retries that a bucket holds at most: a long calm must not pay for a storm.
const CAP: u64 = 100;

/// A pool's retry budget; shared by all its requests without a lock.
#[derive(Debug)]
pub struct RetryBudget {
    /// What one request pays in, in thousandths of a retry.
    deposit: u64,
    /// What is left, in thousandths of a retry.
    balance: AtomicU64,
}

impl RetryBudget {
    /// A bucket into which every request pays `share` of a retry; 0 (or less, or NaN) forbids
    /// retries altogether.
    #[must_use]
    pub fn new(share: f32) -> Self {
        let deposit = (f64::from(share.clamp(0.0, 1.0)) * RETRY as f64).round() as u64;
        let reserve = if deposit == 0 { 0 } else { RESERVE * RETRY };
        Self {
            deposit,
            balance: AtomicU64::new(reserve),
        }
    }

    /// A request arrived.
    pub fn deposit(&self) {
        self.change(|balance| {
            (balance < CAP * RETRY).then(|| (balance + self.deposit).min(CAP * RETRY))
        });
    }

    /// Whether one more retry is affordable; pays for it if so.
    #[must_use = "a retry that was paid for should be made"]
    pub fn withdraw(&self) -> bool {
        self.change(|balance| balance.checked_sub(RETRY))
    }

    /// Whole retries left.
    pub fn retries(&self) -> u64 {
        self.balance.load(Ordering::Relaxed) / RETRY
    }

    fn change(&self, step: impl FnMut(u64) -> Option<u64>) -> bool {
        // Relaxed: the balance guards no other memory.
        self.balance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(budget: &RetryBudget) -> usize {
        (0..100_000).take_while(|_| budget.withdraw()).count()
    }

    #[test]
    fn a_quiet_pool_may_retry_but_not_forever() {
        let budget = RetryBudget::new(0.2);
        assert_eq!(drain(&budget), 10);
        assert!(!budget.withdraw());
    }

    #[test]
    fn five_requests_pay_for_one_retry() {
        let budget = RetryBudget::new(0.2);
        drain(&budget);
        (0..100).for_each(|_| budget.deposit());
        assert_eq!(drain(&budget), 20);
    }

    #[test]
    fn a_long_calm_does_not_pay_for_a_storm() {
        let budget = RetryBudget::new(1.0);
        (0..100_000).for_each(|_| budget.deposit());
        assert_eq!(drain(&budget), 100);
    }

    #[test]
    fn a_share_of_zero_forbids_retries() {
        for share in [0.0, -1.0, f32::NAN] {
            let budget = RetryBudget::new(share);
            (0..100).for_each(|_| budget.deposit());
            assert!(!budget.withdraw(), "{share}");
        }
    }
}
