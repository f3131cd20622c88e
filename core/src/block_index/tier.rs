//! The memory tiers in which a KV block can be, and sets of them.

/// How far away a block is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tier {
    /// In the accelerator's memory.
    #[default]
    Gpu,
    /// In the host's memory.
    Host,
    /// On a disk, or in a store behind the network.
    Disk,
}

/// A set of tiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TierSet(pub(super) u8);

// === Tier ===

impl Tier {
    const fn bit(self) -> u8 {
        match self {
            Self::Gpu => 1,
            Self::Host => 2,
            Self::Disk => 4,
        }
    }
}

// === TierSet ===

impl TierSet {
    /// The bits that a set of tiers may take, in the low end of a number.
    pub(super) const MASK: u64 = 7;

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn has(self, tier: Tier) -> bool {
        self.0 & tier.bit() != 0
    }

    pub(super) const fn with(self, tier: Tier) -> Self {
        Self(self.0 | tier.bit())
    }

    pub(super) const fn without(self, tier: Tier) -> Self {
        Self(self.0 & !tier.bit())
    }
}
