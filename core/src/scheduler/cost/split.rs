//! What costs of a request that may be split add to those of any request.
//!
//! ```text
//!   alone at k:      cost(k) + delay(k) · uncached(k) / rate(k) + answer(k)
//!   a pair from k:   cost(k) + transfer + answer(d)                      d: the best decode endpoint for k
//! ```
//!
//! `delay` is what a second of prefill costs the answers that `k` generates meanwhile, and later
//! prompts if its cache is displaced sooner there; `answer` is what it costs that one more is
//! generated there. All are seconds of a time to first token.

use super::handovers::{Handover, Handovers};
use crate::pick::PairSite;

/// What a candidate is in a pool that splits requests; of no effect in others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::scheduler) struct SplitTerms {
    /// Whether it serves whole requests.
    pub(in crate::scheduler) serves_alone: bool,
    /// Where it computes prompts for others, if it does.
    pub(in crate::scheduler) site: Option<PairSite>,
    /// What a second of its prefill costs the answers that it generates, and later prompts, in
    /// seconds.
    pub(in crate::scheduler) delay: f64,
    /// What it costs that it generates one more answer, in seconds.
    pub(in crate::scheduler) answer: f64,
}

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
            site: None,
            delay: 0.0,
            answer: 0.0,
        }
    }
}

impl SplitTerms {
    /// The cheaper way of a request of N seconds of prefill at this position; `handovers` are absent
    /// if it is not split.
    pub(super) fn cost(
        &self,
        position: u32,
        prefill: f64,
        handovers: Option<&Handovers>,
    ) -> SplitCost {
        let alone = SplitCost {
            is_pair: false,
            transfer: 0.0,
            answers: self.delay * prefill + self.answer,
        };
        let (Some(site), Some(handovers)) = (self.site, handovers) else {
            return alone;
        };
        let handover = handovers.from(position as usize, site);
        let handover = handover.unwrap_or(Handover::IMPOSSIBLE);
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

    use crate::pick::{Distance, Place, SharedPlaces};
    use crate::scheduler::cost::handovers::RankedHandover;

    const SITE: PairSite = PairSite {
        group: 0,
        computes: true,
        takes_over: true,
        place: Place { zone: 0, node: 0 },
        zone: None,
        node: None,
    };

    /// To the only decode endpoint, which is at position 1.
    fn handovers() -> Handovers {
        let place = Place { zone: 1, node: 1 };
        let decode = (1, PairSite { place, ..SITE });
        let weigh = |_, distance| {
            assert_eq!(distance, Distance::Elsewhere);
            RankedHandover {
                is_full: false,
                handover: Handover {
                    transfer: 0.1,
                    answer: 0.2,
                },
                batch: 0.0,
            }
        };
        Handovers::of(1, SharedPlaces::default(), std::iter::once(decode), weigh)
    }

    #[test]
    fn a_pair_is_made_where_it_costs_less_than_the_answer_would_there() {
        let terms = |serves_alone, site, answer| SplitTerms {
            serves_alone,
            site,
            delay: 2.0,
            answer,
        };
        let handovers = handovers();
        let cost = |terms: SplitTerms| terms.cost(0, 1.0, Some(&handovers));
        assert!(
            cost(terms(false, Some(SITE), 0.0)).is_pair,
            "a prefill endpoint"
        );
        assert!(!cost(terms(true, None, 9.0)).is_pair, "it is in no group");
        assert!(!cost(terms(true, Some(SITE), 0.2)).is_pair);
        let pair = cost(terms(true, Some(SITE), 0.4));
        assert!(pair.is_pair);
        assert_eq!((pair.transfer, pair.answers), (0.1, 2.2));
        let unsplit = terms(true, Some(SITE), 9.0).cost(0, 1.0, None);
        assert!(!unsplit.is_pair, "a request that is not split");
    }
}
