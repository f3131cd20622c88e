//! Candidates with their scores, and the best of them.

use super::{MAX_RANKED, SmallVec};
use crate::{explanation::ScoreTerms, load::Load, rng::SeededRng};

/// Candidates that are weighed without hits; as many more may have hits.
pub(super) const MAX_WEIGHED: usize = 64;

/// What a strategy found.
#[derive(Debug, Default)]
pub(super) struct PickRanking {
    /// Positions, best first, each once.
    pub(super) ranked: SmallVec<[usize; MAX_RANKED]>,
    /// Those that were compared by a score; empty for strategies that compare nothing.
    pub(super) weighed: SmallVec<[ScoredCandidate; MAX_WEIGHED]>,
}

/// One candidate that was compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScoredCandidate {
    pub(super) position: usize,
    pub(super) load: Load,
    pub(super) cached: u32,
    /// Lower is better.
    pub(super) score: f32,
    pub(super) terms: ScoreTerms,
}

// === ScoredCandidate ===

impl ScoredCandidate {
    pub(super) fn new(position: usize, load: Load, cached: u32) -> Self {
        Self {
            position,
            load,
            cached,
            score: 0.0,
            terms: ScoreTerms::default(),
        }
    }

    /// With the requests in flight as its score.
    pub(super) fn by_requests(self) -> Self {
        Self {
            score: self.load.in_flight as f32,
            ..self
        }
    }
}

// === PickRanking ===

impl PickRanking {
    /// Ranks the lowest scores; equal scores in random order.
    pub(super) fn rank_lowest(&mut self, rng: &mut SeededRng) {
        let mut best: SmallVec<[(f32, u64, usize); MAX_RANKED + 1]> = SmallVec::new();
        for ScoredCandidate {
            position, score, ..
        } in &self.weighed
        {
            let (score, tie) = (*score, rng.next_u64());
            let place = best.partition_point(|&(other, other_tie, _)| {
                other.total_cmp(&score).then(other_tie.cmp(&tie)).is_lt()
            });
            if place < MAX_RANKED {
                best.insert(place, (score, tie, *position));
                best.truncate(MAX_RANKED);
            }
        }
        self.ranked = best.into_iter().map(|(_, _, position)| position).collect();
    }
}
