//! Fair shares between tenants: those served more than the others recently go later.
//!
//! Least attained service: each tenant's account holds the prefill tokens that were spent on it,
//! fading by half every [`HALF_LIFE`]. The weight of a tenant is the mean of all accounts over its
//! own, within bounds, so that one busy tenant among quiet ones still gets what the others leave.
//! Tenants are hashes; nothing here knows a name.

use std::{collections::HashMap, time::Duration};

use crate::hash::MixBuildHasher;

/// Tenants with an account at most; when there are more, the smallest accounts are closed.
const MAX_TENANTS: usize = 4_096;
const HALF_LIFE: Duration = Duration::from_secs(60);
/// Weights lie between this and its inverse.
const WIDEST: f64 = 8.0;

/// See the module. One per pool.
#[derive(Debug, Default)]
pub(super) struct FairShares {
    accounts: HashMap<u64, f64, MixBuildHasher>,
    /// Sum of the accounts.
    total: f64,
    faded: Duration,
}

impl FairShares {
    /// Tokens were spent on a tenant.
    pub(super) fn spend(&mut self, tenant: Option<u64>, tokens: u32, now: Duration) {
        self.fade(now);
        if self.accounts.len() >= MAX_TENANTS {
            self.close_small();
        }
        *self.accounts.entry(tenant.unwrap_or_default()).or_default() += f64::from(tokens);
        self.total += f64::from(tokens);
    }

    /// How much more urgent a tenant's requests are than those of the mean, 1/8..=8.
    pub(super) fn weight(&self, tenant: Option<u64>) -> f64 {
        let own = self.accounts.get(&tenant.unwrap_or_default()).copied();
        let is_alone = self.accounts.len() == usize::from(own.is_some());
        if is_alone {
            return 1.0;
        }
        let mean = self.total / self.accounts.len() as f64;
        let own = own.unwrap_or_default();
        // A token more on either side: nothing is divided by zero, and two empty accounts are
        // equal.
        ((mean + 1.0) / (own + 1.0)).clamp(1.0 / WIDEST, WIDEST)
    }

    /// Tenants with an account.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Applied in steps of a quarter of a half-life: between two of them everybody fades alike.
    fn fade(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.faded);
        if elapsed < HALF_LIFE / 4 {
            return;
        }
        self.faded = now;
        let keep = 0.5f64.powf(elapsed.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.accounts.retain(|_, account| {
            *account *= keep;
            *account >= 1.0
        });
        self.total = self.accounts.values().sum();
    }

    fn close_small(&mut self) {
        let mean = self.total / self.accounts.len() as f64;
        self.accounts.retain(|_, account| *account >= mean);
        if self.accounts.len() >= MAX_TENANTS {
            // All accounts are equal: reset them.
            self.accounts.clear();
        }
        self.total = self.accounts.values().sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn tenants_with_more_service_go_later_until_it_decays() {
        let mut shares = FairShares::default();
        shares.spend(Some(1), 90_000, SECOND);
        shares.spend(Some(2), 10_000, SECOND);
        assert!(shares.weight(Some(1)) < 0.6 && shares.weight(Some(2)) > 4.0);
        assert_eq!(
            shares.weight(Some(3)),
            WIDEST,
            "who got nothing yet is the most urgent"
        );
        shares.spend(Some(2), 1, 3_600 * SECOND);
        assert_eq!(
            shares.weight(Some(1)),
            shares.weight(Some(3)),
            "a minute halves it, an hour forgets it"
        );
    }

    #[test]
    fn one_tenant_alone_has_no_rank() {
        let mut shares = FairShares::default();
        shares.spend(None, 1_000_000, SECOND);
        assert_eq!(shares.weight(None), 1.0);
        assert_eq!(shares.weight(Some(1)), WIDEST, "until another one comes");
    }

    #[test]
    fn tenants_without_number_do_not_fill_the_memory() {
        let mut shares = FairShares::default();
        for tenant in 0..100_000 {
            shares.spend(Some(tenant), 100 + (tenant % 7) as u32, SECOND);
            assert!(shares.len() <= MAX_TENANTS);
        }
    }
}
