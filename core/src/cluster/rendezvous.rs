//! Which control-plane replica schedules which pool, agreed without an election.
//!
//! Highest random weight (Thaler, Ravishankar 1998): everyone computes the same weight for every
//! (pool, replica) and the highest wins. Losing a replica moves the pools it owned, and no others.

use xxhash_rust::xxh3::xxh3_64;

use crate::hash::hash_mix;

/// The owner of `pool` among `replicas`, in whatever order they come; `None` when there are none.
pub fn owner<'a, R: AsRef<[u8]> + ?Sized>(
    pool: &str,
    replicas: impl IntoIterator<Item = &'a R>,
) -> Option<&'a R> {
    let pool = xxh3_64(pool.as_bytes());
    // Equal weights of different replicas are next to impossible; the name decides, so that all
    // still agree.
    let weighed = replicas.into_iter().map(|replica| {
        (
            hash_mix(pool, xxh3_64(replica.as_ref())),
            replica.as_ref(),
            replica,
        )
    });
    weighed
        .max_by_key(|&(weight, name, _)| (weight, name))
        .map(|(_, _, replica)| replica)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::{prelude::*, sample::Index};

    use super::*;

    fn pools() -> impl Iterator<Item = String> {
        (0..300).map(|number| format!("pool-{number}"))
    }

    #[test]
    fn a_pool_without_replicas_has_no_owner() {
        assert_eq!(owner::<str>("chat", []), None);
    }

    #[test]
    fn owners_never_change_between_releases() {
        let replicas = [
            "hermes-control-plane-0",
            "hermes-control-plane-1",
            "hermes-control-plane-2",
        ];
        let owners: Vec<_> = ["chat", "code", "embed"]
            .map(|pool| owner(pool, replicas))
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(owners, [replicas[0], replicas[0], replicas[2]]);
    }

    #[test]
    fn pools_spread_over_replicas() {
        let mut owned: HashMap<&str, usize> = HashMap::new();
        for pool in pools() {
            *owned
                .entry(owner(&pool, ["a", "b", "c"]).expect("there are replicas"))
                .or_default() += 1;
        }
        assert!(
            owned.len() == 3 && owned.values().all(|&count| count > 60),
            "{owned:?}"
        );
    }

    proptest! {
        #[test]
        fn losing_a_replica_moves_only_its_pools(
            names in proptest::collection::hash_set("[a-z0-9.-]{1,20}", 2..8),
            lost in any::<Index>(),
        ) {
            let before: Vec<&String> = names.iter().collect();
            let lost = before[lost.index(before.len())];
            let after: Vec<&String> = before.iter().copied().filter(|name| *name != lost).collect();
            for pool in pools() {
                let old = owner(&pool, before.iter().copied()).expect("there are replicas");
                let new = owner(&pool, after.iter().rev().copied()).expect("there are replicas");
                prop_assert!(old == lost || old == new);
            }
        }
    }
}
