//! A consistent hash ring: a session finds the same endpoint while the set changes around it.

use crate::{hash::hash_mix, snapshot::EndpointId};

/// Points of one endpoint: enough that shares differ by an eighth or so, which the bound on loads
/// evens out.
const POINTS: u64 = 64;

/// Points on a circle of 64 bits, sorted, each with the position of its endpoint.
#[derive(Debug)]
pub(super) struct HashRing(Box<[(u64, u32)]>);

impl HashRing {
    pub(super) fn new(endpoints: impl Iterator<Item = (usize, EndpointId)>) -> Self {
        let points = |(position, id): (usize, EndpointId)| {
            (0..POINTS).map(move |n| (hash_mix(id.0, n), position as u32))
        };
        let mut points: Box<[(u64, u32)]> = endpoints.flat_map(points).collect();
        points.sort_unstable();
        Self(points)
    }

    /// Positions in the order in which a session tries them; each endpoint comes as often as it has
    /// points.
    pub(super) fn walk(&self, session: u64) -> impl Iterator<Item = usize> + '_ {
        // Mixed once more: the hash of the session may not use all bits.
        let place = hash_mix(session, POINTS);
        let first = self.0.partition_point(|&(point, _)| point < place);
        let (before, after) = self.0.split_at(first);
        after
            .iter()
            .chain(before)
            .map(|&(_, position)| position as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SESSIONS: u64 = 4_000;

    fn ring(ids: &[u64]) -> HashRing {
        HashRing::new(
            ids.iter()
                .map(|&id| (id as usize, EndpointId(hash_mix(id, 1)))),
        )
    }

    fn home(ring: &HashRing, session: u64) -> usize {
        ring.walk(session).next().expect("the ring has points")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn losing_one_endpoint_of_n_moves_its_sessions_only_and_those_are_about_one_in_n(n in 3..40u64, seed: u64) {
            let all: Vec<u64> = (0..n).collect();
            let lost = seed % n;
            let rest: Vec<u64> = all.iter().copied().filter(|&id| id != lost).collect();
            let (before, after) = (ring(&all), ring(&rest));
            let mut moved = 0;
            for session in 0..SESSIONS {
                let (old, new) = (home(&before, session ^ seed), home(&after, session ^ seed));
                moved += usize::from(old != new);
                prop_assert!(old == new || old == lost as usize);
            }
            let share = moved as f64 / SESSIONS as f64;
            prop_assert!((0.4 / n as f64..2.0 / n as f64).contains(&share), "{} of 1/{}", share, n);
        }
    }
}
