//! What costs of a request that may be split add to those of any request.
//!
//! ```text
//!   alone at k:      cost(k) + delay(k) · uncached(k) / rate(k) + answer(k)
//!   a pair from k:   cost(k) + transfer + answer(d)                      d: the best decode endpoint of k's group
//! ```
//!
//! `delay` is what a second of prefill costs the answers that `k` generates meanwhile, and later
//! prompts if its cache is displaced sooner there; `answer` is what it costs that one more is
//! generated there. All are seconds of a time to first token.

use smallvec::SmallVec;

/// What a candidate is in a pool that splits requests; of no effect in others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::scheduler) struct SplitTerms {
    /// Whether it serves whole requests.
    pub(in crate::scheduler) serves_alone: bool,
    /// The group inside which it computes prompts for others, if it does.
    pub(in crate::scheduler) group: Option<usize>,
    /// What a second of its prefill costs the answers that it generates, and later prompts, in
    /// seconds.
    pub(in crate::scheduler) delay: f64,
    /// What it costs that it generates one more answer, in seconds.
    pub(in crate::scheduler) answer: f64,
}

/// That the best decode endpoint of a group takes a prompt over, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::scheduler) struct Handover {
    /// From the end of the prefill to the first token.
    pub(in crate::scheduler) transfer: f64,
    /// What it costs that the answer is generated there.
    pub(in crate::scheduler) answer: f64,
}

/// By group; empty for a request that is not split.
pub(in crate::scheduler) type Handovers = SmallVec<[Handover; 2]>;

/// What is added to the cost of a candidate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SplitCost {
    pub(super) is_pair: bool,
    /// Until the first token.
    pub(super) transfer: f64,
    /// For the answers.
    pub(super) answers: f64,
}

impl Default for SplitTerms {
    fn default() -> Self {
        Self {
            serves_alone: true,
            group: None,
            delay: 0.0,
            answer: 0.0,
        }
    }
}

impl Handover {
    /// No decode endpoint of the group is up.
    pub(in crate::scheduler) const IMPOSSIBLE: Self = Self {
        transfer: f64::INFINITY,
        answer: 0.0,
    };
}

impl SplitTerms {
    /// The cheaper way of a request of N seconds of prefill there.
    pub(super) fn cost(&self, prefill: f64, handovers: &[Handover]) -> SplitCost {
        let alone = SplitCost {
            is_pair: false,
            transfer: 0.0,
            answers: self.delay * prefill + self.answer,
        };
        let Some(handover) = self.group.and_then(|group| handovers.get(group)) else {
            return alone;
        };
        // Answers of its own wait for its prefill either way.
        let pair = SplitCost {
            is_pair: true,
            transfer: handover.transfer,
            answers: self.delay * prefill + handover.answer,
        };
        if self.serves_alone && alone.answers <= pair.transfer + pair.answers {
            alone
        } else {
            pair
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDOVER: Handover = Handover {
        transfer: 0.1,
        answer: 0.2,
    };

    #[test]
    fn a_pair_is_made_where_it_costs_less_than_the_answer_would_there() {
        let terms = |serves_alone, group, answer| SplitTerms {
            serves_alone,
            group,
            delay: 2.0,
            answer,
        };
        let cost = |terms: SplitTerms| terms.cost(1.0, &[HANDOVER]);
        assert!(
            cost(terms(false, Some(0), 0.0)).is_pair,
            "a prefill endpoint"
        );
        assert!(!cost(terms(true, None, 9.0)).is_pair, "it is in no group");
        assert!(!cost(terms(true, Some(0), 0.2)).is_pair);
        let pair = cost(terms(true, Some(0), 0.4));
        assert!(pair.is_pair);
        assert_eq!((pair.transfer, pair.answers), (0.1, 2.2));
        let unsplit = terms(true, Some(0), 9.0).cost(1.0, &[]);
        assert!(!unsplit.is_pair, "a request that is not split");
    }
}
