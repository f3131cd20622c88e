//! Eligible sets: the endpoints that may serve a request, as positions in the pool, with an
//! identity.
//!
//! Everyone is one set, and the holders of each model are one. Models that the same endpoints hold
//! share one set, so that what is kept per set is kept once for them.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use super::ring::HashRing;
use crate::snapshot::Pool;

/// The identity of an [`EligibleSet`] among those of one pool: equal sets have the same. Valid
/// until the pool changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EligibleSetId(u32);

/// A set of positions, sorted, with its identity and its hash ring.
#[derive(Debug)]
pub(crate) struct EligibleSet {
    id: EligibleSetId,
    positions: Box<[u32]>,
    /// Built on first use: a pool may serve a thousand adapters, each on a few endpoints of their
    /// own.
    ring: OnceLock<HashRing>,
}

/// The eligible sets of one pool, each once, by identity. The first is everyone.
#[derive(Debug)]
pub(crate) struct EligibleSets {
    sets: Vec<Arc<EligibleSet>>,
}

// === EligibleSetId ===

impl EligibleSetId {
    /// That of the set of all endpoints that serve alone.
    pub(crate) const EVERYONE: Self = Self(0);
}

// === EligibleSets ===

impl EligibleSets {
    /// The set `everyone`, and one for each of `others`; all positions in ascending order. Also
    /// returns the identities of the others, in their order.
    pub(crate) fn new(
        everyone: impl Iterator<Item = usize>,
        others: impl Iterator<Item = Option<Vec<usize>>>,
    ) -> (Self, Vec<EligibleSetId>) {
        let mut sets = Self { sets: Vec::new() };
        let mut known: HashMap<Box<[u32]>, EligibleSetId> = HashMap::new();
        sets.intern(&mut known, everyone);
        let mut id = |other: Option<Vec<usize>>| {
            other.map_or(EligibleSetId::EVERYONE, |positions| {
                sets.intern(&mut known, positions.into_iter())
            })
        };
        let ids = others.map(&mut id).collect();
        (sets, ids)
    }

    pub(crate) fn everyone(&self) -> &Arc<EligibleSet> {
        self.get(EligibleSetId::EVERYONE)
    }

    /// The set of this identity, which is one of this pool's.
    pub(crate) fn get(&self, id: EligibleSetId) -> &Arc<EligibleSet> {
        &self.sets[id.0 as usize]
    }

    fn intern(
        &mut self,
        known: &mut HashMap<Box<[u32]>, EligibleSetId>,
        positions: impl Iterator<Item = usize>,
    ) -> EligibleSetId {
        let positions: Box<[u32]> = positions.map(|position| position as u32).collect();
        if let Some(&id) = known.get(&positions) {
            return id;
        }
        let id = EligibleSetId(self.sets.len() as u32);
        known.insert(positions.clone(), id);
        self.sets.push(Arc::new(EligibleSet {
            id,
            positions,
            ring: OnceLock::new(),
        }));
        id
    }
}

// === EligibleSet ===

impl EligibleSet {
    pub(crate) const fn id(&self) -> EligibleSetId {
        self.id
    }

    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// The position of the member at this index.
    pub(crate) fn at(&self, index: usize) -> usize {
        self.positions[index] as usize
    }

    pub(crate) fn contains(&self, position: usize) -> bool {
        self.positions.binary_search(&(position as u32)).is_ok()
    }

    /// All positions, in ascending order.
    pub(crate) fn positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.positions.iter().map(|&position| position as usize)
    }

    /// All positions once, beginning at this index.
    pub(crate) fn from(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        let (before, after) = self.positions.split_at(index);
        after
            .iter()
            .chain(before)
            .map(|&position| position as usize)
    }

    pub(super) fn ring(&self, pool: &Pool) -> &HashRing {
        self.ring.get_or_init(|| {
            HashRing::new(
                self.positions()
                    .map(|position| (position, pool.endpoints[position].id)),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_have_one_identity_and_different_ones_have_two() {
        let others = [
            None,
            Some(vec![1, 2]),
            Some(vec![0, 1, 2]),
            Some(vec![1]),
            Some(vec![1, 2]),
            Some(Vec::new()),
        ];
        let (sets, ids) = EligibleSets::new(0..3, others.into_iter());
        assert_eq!(
            (ids[0], ids[2]),
            (EligibleSetId::EVERYONE, sets.everyone().id())
        );
        assert_eq!(ids[1], ids[4]);
        assert!(ids[3] != ids[1] && ids[5] != ids[3] && ids[1] != ids[0]);
        let members: Vec<usize> = sets.get(ids[4]).positions().collect();
        assert_eq!((members, sets.get(ids[4]).id()), (vec![1, 2], ids[1]));
        assert!(sets.get(ids[5]).is_empty());
    }
}
