//! What breaks the protocol of a pair: requests that a real engine would answer with stale memory,
//! wait for for minutes, or die of.

use std::sync::atomic::{AtomicU64, Ordering};

/// One way to break the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairViolation {
    /// A prefill engine got a request that is no prefill leg.
    NoPrefillLeg,
    /// A decode engine got parameters of which a part is missing: vLLM waits for ever.
    IncompleteParameters,
    /// A handoff that the prefill engine does not have.
    UnknownHandoff,
    /// A handoff that another request has taken over: vLLM reads freed memory.
    UsedTwice,
    /// A handoff after its lease: vLLM reads freed memory.
    AfterLease,
    /// A prompt that is longer than the prefilled one: vLLM dies.
    LongerPrompt,
    /// Engines of two releases.
    OtherVersion,
    /// Engines of two models.
    OtherModel,
    /// A request without a room.
    NoRoom,
    /// A request without the host of a bootstrap server, or with that of another engine.
    OtherBootstrap,
    /// A room, a transfer or a context request that another leg of the same role is or was in.
    RoomInUse,
    /// An engine id that the bootstrap server does not list: vLLM fails, or waits for 540 s.
    OtherEngine,
    /// A prefill leg without a data-parallel rank that the engine has.
    NoRank,
    /// A decode leg that waits for a prefill leg which was cut off: vLLM waits for 480 s.
    LeftAlone,
}

/// How often each happened at one engine.
#[derive(Debug, Default)]
pub(crate) struct ViolationCounts([AtomicU64; PairViolation::ALL.len()]);

impl PairViolation {
    /// Every one.
    pub const ALL: [Self; 14] = [
        Self::NoPrefillLeg,
        Self::IncompleteParameters,
        Self::UnknownHandoff,
        Self::UsedTwice,
        Self::AfterLease,
        Self::LongerPrompt,
        Self::OtherVersion,
        Self::OtherModel,
        Self::NoRoom,
        Self::OtherBootstrap,
        Self::RoomInUse,
        Self::OtherEngine,
        Self::NoRank,
        Self::LeftAlone,
    ];

    /// Its value of the label `kind`, on the side channel too.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::NoPrefillLeg => "no_prefill_leg",
            Self::IncompleteParameters => "incomplete_parameters",
            Self::UnknownHandoff => "unknown_handoff",
            Self::UsedTwice => "used_twice",
            Self::AfterLease => "after_lease",
            Self::LongerPrompt => "longer_prompt",
            Self::OtherVersion => "other_version",
            Self::OtherModel => "other_model",
            Self::NoRoom => "no_room",
            Self::OtherBootstrap => "other_bootstrap",
            Self::RoomInUse => "room_in_use",
            Self::OtherEngine => "other_engine",
            Self::NoRank => "no_rank",
            Self::LeftAlone => "left_alone",
        }
    }

    /// The violation of this kind.
    #[must_use]
    pub fn of(kind: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|violation| violation.kind() == kind)
    }

    /// The status of the answer: what a client's mistake gets, and what an engine's failure.
    pub(crate) const fn status(self) -> u16 {
        match self {
            Self::NoRoom | Self::OtherBootstrap | Self::NoRank => 400,
            _ => 500,
        }
    }
}

impl ViolationCounts {
    pub(crate) fn count(&self, violation: PairViolation) {
        self.0[violation as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Each violation with its count.
    pub(crate) fn all(&self) -> impl Iterator<Item = (PairViolation, u64)> + '_ {
        let count = |violation| self.0[violation as usize].load(Ordering::Relaxed);
        PairViolation::ALL
            .into_iter()
            .map(move |violation| (violation, count(violation)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_violation_is_found_by_its_kind_and_counted_in_its_place() {
        let counts = ViolationCounts::default();
        for (index, violation) in PairViolation::ALL.into_iter().enumerate() {
            assert_eq!(violation as usize, index);
            assert_eq!(PairViolation::of(violation.kind()), Some(violation));
            counts.count(violation);
        }
        assert!(counts.all().all(|(_, count)| count == 1));
        assert_eq!(PairViolation::of("another"), None);
    }
}
