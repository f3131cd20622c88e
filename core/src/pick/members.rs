//! The endpoints that serve one model, as positions in the pool.

use std::sync::OnceLock;

use super::ring::HashRing;
use crate::snapshot::Pool;

/// A set of positions, sorted, with its hash ring.
#[derive(Debug)]
pub(crate) struct EligibleSet {
    positions: Box<[u32]>,
    /// Built on first use: a pool may serve a thousand adapters, each on a few endpoints of their
    /// own.
    ring: OnceLock<HashRing>,
}

impl EligibleSet {
    /// Of positions in ascending order.
    pub(crate) fn new(positions: impl Iterator<Item = usize>) -> Self {
        Self {
            positions: positions.map(|position| position as u32).collect(),
            ring: OnceLock::new(),
        }
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
                self.from(0)
                    .map(|position| (position, pool.endpoints[position].id)),
            )
        })
    }
}
