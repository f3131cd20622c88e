//! The position in a stream of batches, by their sequence numbers. Pure.
//!
//! A publisher numbers its batches from zero, without a gap, and from zero again after a restart. A
//! batch is the next, or known already (a replay has no upper end, so it repeats what is on its
//! way), or there is a gap before it; and when the numbers of one connection go backwards, the
//! publisher is another one.

use xxhash_rust::xxh3::xxh3_64;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sequence {
    /// The number that comes next, once any is known.
    next: Option<u64>,
    /// The newest batch: its number, and a hash of its payload.
    newest: Option<Mark>,
    /// The newest number that came over this connection.
    live: Option<u64>,
}

/// A batch that can be recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) number: u64,
    digest: u64,
}

/// What a live batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchOrder {
    /// The next one.
    Next,
    /// The first that is known of.
    First,
    /// One that was taken in already.
    Known,
    /// One after others that are missing, from this number on.
    Gap(u64),
    /// One of a publisher that restarted.
    Restart,
}

// === Sequence ===

impl Sequence {
    /// A new connection to what may be the same publisher.
    pub(super) fn reconnected(&mut self) {
        self.live = None;
    }

    /// The number that comes next, once any is known.
    pub(super) fn next(&self) -> Option<u64> {
        self.next
    }

    /// The newest batch that was taken in.
    pub(super) fn newest(&self) -> Option<Mark> {
        self.newest
    }

    /// Judges a batch that came live.
    pub(super) fn judge(&mut self, number: u64) -> BatchOrder {
        if self.live.is_some_and(|live| number <= live) {
            *self = Self {
                live: Some(number),
                ..Self::default()
            };
            return BatchOrder::Restart;
        }
        self.live = Some(number);
        match self.next {
            None => BatchOrder::First,
            Some(next) if number == next => BatchOrder::Next,
            Some(next) if number > next => BatchOrder::Gap(next),
            Some(_) => BatchOrder::Known,
        }
    }

    /// A batch was taken in.
    pub(super) fn took(&mut self, number: u64, payload: &[u8]) {
        self.next = Some(number.saturating_add(1));
        self.newest = Some(Mark::of(number, payload));
    }

    /// Nothing was published yet.
    pub(super) fn begins(&mut self) {
        self.next = Some(0);
    }

    /// Nothing that was known means anything any more.
    pub(super) fn forget(&mut self) {
        (self.next, self.newest) = (None, None);
    }
}

// === Mark ===

impl Mark {
    pub(super) fn of(number: u64, payload: &[u8]) -> Self {
        Self {
            number,
            digest: xxh3_64(payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_late_join_is_no_gap_and_a_gap_is_reported_from_its_beginning() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.judge(7), BatchOrder::First);
        sequence.took(7, b"");
        assert_eq!(sequence.judge(8), BatchOrder::Next);
        sequence.took(8, b"");
        assert_eq!(sequence.judge(11), BatchOrder::Gap(9));
    }

    #[test]
    fn batches_that_a_replay_repeats_are_duplicates_and_no_restart() {
        let mut sequence = Sequence::default();
        (0..5).for_each(|number| sequence.took(number, b""));
        assert_eq!(
            [sequence.judge(3), sequence.judge(4), sequence.judge(5)],
            [BatchOrder::Known, BatchOrder::Known, BatchOrder::Next]
        );
    }

    #[test]
    fn numbers_that_go_backwards_are_those_of_another_publisher() {
        let mut sequence = Sequence::default();
        for number in 0..3 {
            sequence.judge(number);
            sequence.took(number, b"");
        }
        assert_eq!(sequence.judge(0), BatchOrder::Restart);
        assert_eq!((sequence.next(), sequence.newest()), (None, None));
        sequence.took(0, b"");
        assert_eq!(sequence.judge(1), BatchOrder::Next);
    }

    #[test]
    fn another_payload_is_another_batch() {
        assert_ne!(Mark::of(3, b"one"), Mark::of(3, b"other"));
    }

    proptest! {
        #[test]
        fn whatever_comes_each_batch_is_taken_in_once_and_in_order(
            lost in proptest::collection::vec(any::<bool>(), 1..60), ahead in 0..4u64,
        ) {
            // A publisher sends 0, 1, 2, …; some are lost on the way. A replay repeats all up to
            // `ahead` beyond the present.
            let mut sequence = Sequence::default();
            sequence.begins();
            let mut taken = Vec::new();
            for number in (0..lost.len() as u64).filter(|number| !lost[*number as usize]) {
                match sequence.judge(number) {
                    BatchOrder::Known => continue,
                    BatchOrder::Gap(from) => for missed in from..(number + 1 + ahead).min(lost.len() as u64) {
                        sequence.took(missed, b"");
                        taken.push(missed);
                    }
                    BatchOrder::Next => {
                        sequence.took(number, b"");
                        taken.push(number);
                    }
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert_eq!(taken.clone(), (0..taken.len() as u64).collect::<Vec<_>>());
        }
    }
}
