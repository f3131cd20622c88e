//! How long KV caches are on their way in a pool, over each distance.
//!
//! A line for each [distance](Distance), and one for all pairs: it counts where a distance has shown
//! nothing, so that one that is not known yet is tried as if it were like the others.

use std::time::Duration;

use super::TransferSpeed;
use crate::pick::Distance;

/// First bytes of a pool after which a distance that was not used counts as not known, while others
/// are. With a wrong figure it may never be used, so that it is tried then.
const OUTDATED: u64 = 4_096;

/// Pairs that are made by what is assumed of transfers, until they show what those take or
/// [`RETRIED`] first bytes have come: it may be that none of them can work.
const TRIALS: u32 = 8;

/// First bytes of a pool after which further trials are made.
const RETRIED: u64 = 512;

/// See the module.
#[derive(Clone, Debug)]
pub(in crate::scheduler) struct PoolTransfers {
    all: TransferSpeed,
    /// Pairs that were made while nothing was known, and first bytes of the pool when the first of
    /// them was.
    tried: (u32, u64),
    /// By distance, as they are declared.
    over: [TransferSpeed; Distance::ALL.len()],
}

impl Default for PoolTransfers {
    fn default() -> Self {
        Self {
            all: TransferSpeed::default(),
            tried: (0, 0),
            over: Distance::ALL.map(|_| TransferSpeed::known_for(OUTDATED)),
        }
    }
}

impl PoolTransfers {
    /// `tokens` were taken over in this time; the pool has given `answers` first bytes.
    pub(in crate::scheduler) fn transferred(
        &mut self,
        distance: Distance,
        (tokens, took): (u32, Duration),
        answers: u64,
    ) {
        self.review(answers);
        self.all.transferred(tokens, took, answers);
        self.over[distance as usize].transferred(tokens, took, answers);
    }

    /// The pool has given `answers` first bytes: what was learned long ago is not known any more.
    pub(in crate::scheduler) fn review(&mut self, answers: u64) {
        let were_known = self.are_known();
        self.all.review(answers);
        if were_known && !self.are_known() {
            *self = Self::default();
        }
        for distance in &mut self.over {
            distance.review(answers);
        }
    }

    /// Another pair is made; the pool has given `answers` first bytes.
    pub(in crate::scheduler) fn pair_is_made(&mut self, answers: u64) {
        if self.are_known() {
            self.tried = (0, 0);
            return;
        }
        let (pairs, since) = &mut self.tried;
        if *pairs == 0 || answers.saturating_sub(*since) > RETRIED {
            (*pairs, *since) = (0, answers);
        }
        *pairs += 1;
    }

    /// Whether a pair may be made without any knowledge of transfers.
    pub(in crate::scheduler) fn may_be_tried(&self, answers: u64) -> bool {
        let (pairs, since) = self.tried;
        pairs < TRIALS || answers.saturating_sub(since) > RETRIED
    }

    /// Whether pairs have shown how long transfers take.
    pub(in crate::scheduler) fn are_known(&self) -> bool {
        self.all.seconds(0.0).is_some()
    }

    /// Seconds of a transfer of `tokens` over whatever distance; `None` while that is unknown.
    pub(in crate::scheduler) fn seconds(&self, tokens: f64) -> Option<f64> {
        self.all.seconds(tokens)
    }

    /// Seconds of a transfer of `tokens` over this distance; `None` while nothing is known.
    pub(in crate::scheduler) fn seconds_over(
        &self,
        distance: Distance,
        tokens: f64,
    ) -> Option<f64> {
        let over = self.over[distance as usize].seconds(tokens);
        over.or_else(|| self.seconds(tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four transfers over a distance, of this many milliseconds each.
    fn transfers(pool: &mut PoolTransfers, distance: Distance, took: u64, answers: u64) {
        for _ in 0..4 {
            let moved = (4_000, Duration::from_millis(took));
            pool.transferred(distance, moved, answers);
        }
    }

    fn milliseconds(pool: &PoolTransfers, distance: Distance) -> Option<f64> {
        let seconds = pool.seconds_over(distance, 4_000.0)?;
        Some((seconds * 1e3).round())
    }

    #[test]
    fn a_distance_that_has_shown_nothing_is_like_the_others() {
        let mut pool = PoolTransfers::default();
        assert_eq!(milliseconds(&pool, Distance::SameZone), None);
        transfers(&mut pool, Distance::SameZone, 40, 0);
        for distance in Distance::ALL {
            assert_eq!(milliseconds(&pool, distance), Some(40.0), "{distance:?}");
        }
        transfers(&mut pool, Distance::Elsewhere, 300, 0);
        let known = Distance::ALL.map(|distance| milliseconds(&pool, distance));
        assert_eq!(known[1..], [Some(40.0), Some(300.0)]);
    }

    #[test]
    fn a_few_pairs_are_tried_without_knowledge_and_more_of_them_later() {
        let mut pool = PoolTransfers::default();
        for _ in 0..TRIALS {
            assert!(pool.may_be_tried(7));
            pool.pair_is_made(7);
        }
        assert!(!pool.may_be_tried(7 + RETRIED));
        assert!(pool.may_be_tried(8 + RETRIED));
        pool.pair_is_made(8 + RETRIED);
        assert!(pool.may_be_tried(8 + RETRIED));
        transfers(&mut pool, Distance::Elsewhere, 40, 600);
        pool.pair_is_made(600);
        pool.review(10_000);
        assert!(!pool.are_known() && pool.may_be_tried(10_000));
    }

    #[test]
    fn a_distance_is_remembered_longer_than_the_last_pair_of_a_pool() {
        let mut pool = PoolTransfers::default();
        transfers(&mut pool, Distance::Elsewhere, 300, 0);
        for answers in (0..=OUTDATED).step_by(100) {
            transfers(&mut pool, Distance::SameNode, 40, answers);
            pool.review(answers);
        }
        assert_eq!(milliseconds(&pool, Distance::Elsewhere), Some(300.0));
        pool.review(OUTDATED + 1);
        assert_eq!(
            milliseconds(&pool, Distance::Elsewhere),
            Some(40.0),
            "as if it were like the others"
        );
        pool.review(OUTDATED + 1_000);
        assert_eq!(milliseconds(&pool, Distance::SameNode), None);
        assert!(!pool.are_known());
    }
}
