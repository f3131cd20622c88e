//! What a request costs on each endpoint, and where it costs least: the rules of `kv-aware`, as
//! arithmetic.
//!
//! ```text
//!   finish(k) = ahead(k) + base(k) + uncached(k) / rate(k)        when its first token would come out
//!   waste(k)  = (uncached(k) − least uncached) / mean rate        prefill that another endpoint would be spared
//!   cost(k)   = finish(k) + γ(k) · waste(k) − spared(k)
//!   γ(k)      = φ(k) · (ρ / (1 − ρ) + queued for k / lanes of k)  what a wasted second at k delays
//! ```
//!
//! The request goes to the endpoint with the least cost. So an endpoint without the prompt's cache
//! gets it only if it is done sooner by γ times the work that this wastes ([`WastePrice`]), and a
//! slow endpoint is left alone while a fast one will be done sooner. A second that is wasted at one
//! endpoint delays those who use that one: requests that are queued for another do not count. What
//! is `spared` is the price of a copy of the common prefix, as far as earlier requests have paid
//! for it ([`PrefixRents`](super::rents::PrefixRents)). Waste is valued at the mean rate of all: a
//! second of a slow endpoint is worth less than one of a fast one. Among equals the one wins with
//! fewer requests in flight, as each decoding request slows the next prefill down a little, and
//! with less prefill lately, as its cache has the oldest content to lose.

mod handovers;
mod split;

use std::ops::Range;

use smallvec::SmallVec;

use self::split::SplitCost;
pub(super) use self::{
    handovers::{Handover, Handovers, RankedHandover},
    split::SplitTerms,
};
use super::rents::PrefixCredit;
use crate::{estimate::PositionHits, policy::KvAware, query::MAX_RANKED};

/// Seconds that one more request in flight is worth: only decides between equals.
const PER_REQUEST: f64 = 1e-3;
/// Seconds that a second of recent prefill is worth: likewise.
const PER_SECOND: f64 = 1e-3;

/// One endpoint, as a choice sees it at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CandidateEndpoint {
    /// Position in the pool.
    pub(super) position: u32,
    /// Requests in flight there.
    pub(super) in_flight: u32,
    /// Seconds of prefill that it was given lately.
    pub(super) recent_prefill: f64,
    /// Seconds until a prompt that is sent now begins, those included who wait for it and go
    /// before.
    pub(super) queue_delay: f64,
    /// How much a prompt delays the next there: φ, 0..=1.
    pub(super) interference: f64,
    /// Requests that are queued for it, for each of its lanes.
    pub(super) waiting: f64,
    /// Seconds that any prompt takes.
    pub(super) base: f64,
    /// Seconds per uncached token, in one lane.
    pub(super) per_token: f64,
    /// What it is for requests that may be split.
    pub(super) split: SplitTerms,
}

/// The endpoints that a request may go to, in ascending order of position.
#[derive(Clone, Debug, Default)]
pub(super) struct CandidateSet {
    pub(super) candidates: Vec<CandidateEndpoint>,
    /// Seconds per token at the mean rate.
    mean_per_token: f64,
}

/// A prompt, as costs see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct CostedPrompt<'a> {
    pub(super) tokens: u32,
    pub(super) hits: &'a PositionHits,
    /// What it may spend on a copy of its common prefix.
    pub(super) credit: PrefixCredit,
    /// That decode endpoints take it over; absent if it is not split.
    pub(super) handovers: Option<&'a Handovers>,
}

/// What a second of wasted prefill costs all others: γ, by the endpoint where it is wasted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct WastePrice {
    /// For those who will come.
    pub(super) coming: f64,
    /// For each request that is queued for a lane.
    pub(super) waiting: f64,
}

/// What a request costs on one endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct EndpointCost {
    /// Index among the candidates.
    pub(super) candidate: usize,
    /// What endpoints are compared by, in seconds.
    pub(super) total: f64,
    /// Seconds until its first token.
    pub(super) finish: f64,
    /// Seconds of prefill, at the mean rate, that another endpoint would be spared.
    pub(super) wasted_prefill: f64,
    /// Seconds of credit that it spends there.
    pub(super) spared: f64,
    /// Prompt tokens cached there.
    pub(super) cached: u32,
    /// It only computes the prompt there, for a decode endpoint.
    pub(super) is_pair: bool,
    /// Seconds of `finish` that the prompt is on its way to the decode endpoint.
    pub(super) transfer: f64,
    /// What it costs answers, its own and others, and later prompts, in seconds.
    pub(super) answers: f64,
}

impl EndpointCost {
    /// Seconds from the beginning of the prefill to the end of the transfer, of a pair from a
    /// candidate that begins with it after `queue_delay`.
    pub(super) fn handed_over_in(&self, queue_delay: f64) -> Option<f64> {
        self.is_pair.then_some(self.finish - queue_delay)
    }

    /// Seconds of prefill there, of a candidate that begins with it after `queue_delay`.
    pub(super) fn service(&self, queue_delay: f64) -> f64 {
        self.finish - self.transfer - queue_delay
    }
}

/// The least costs, the least first.
pub(super) type CostRanking = SmallVec<[EndpointCost; MAX_RANKED]>;

// === WastePrice ===

impl WastePrice {
    /// At a utilization ρ, 0..=1, of the endpoints that may serve the request.
    pub(super) fn of(rules: &KvAware, utilization: f64) -> Self {
        Self {
            coming: rules.gamma(utilization),
            waiting: rules.gamma_waiting.into(),
        }
    }

    /// γ at this endpoint.
    pub(super) fn at(self, candidate: &CandidateEndpoint) -> f64 {
        candidate.interference * (self.coming + self.waiting * candidate.waiting)
    }
}

// === CandidateSet ===

impl CandidateSet {
    pub(super) fn new(candidates: Vec<CandidateEndpoint>) -> Self {
        let rates: f64 = candidates
            .iter()
            .map(|candidate| 1.0 / candidate.per_token)
            .sum();
        let mean_per_token = if rates > 0.0 {
            candidates.len() as f64 / rates
        } else {
            0.0
        };
        Self {
            candidates,
            mean_per_token,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.candidates.len()
    }

    /// Seconds that the request would have saved at another candidate with a copy of its common
    /// prefix, if it `waited` for the chosen one; 0 if there is none.
    pub(super) fn rent(&self, prompt: CostedPrompt<'_>, chosen: EndpointCost, waited: f64) -> f64 {
        let mut least = f64::INFINITY;
        let common = prompt.credit.tokens;
        let copied = common.min(chosen.cached);
        if copied == 0 {
            return 0.0;
        }
        self.stretches(prompt.hits, |stretch, hit| {
            if hit < copied {
                let uncached = f64::from(prompt.tokens.saturating_sub(common));
                for candidate in &self.candidates[stretch] {
                    let finish =
                        candidate.queue_delay + candidate.base + uncached * candidate.per_token;
                    least = least.min(finish);
                }
            }
        });
        (chosen.finish - chosen.transfer + waited - least).max(0.0)
    }

    /// Updates the candidate at its position, if it is in the set.
    pub(super) fn update(&mut self, candidate: CandidateEndpoint) {
        let at = self.first_from(0, candidate.position);
        if let Some(there) = self.candidates.get_mut(at)
            && there.position == candidate.position
        {
            *there = candidate;
        }
    }

    /// Where the request costs least; empty when there are no candidates.
    pub(super) fn ranking(&self, prompt: CostedPrompt<'_>, price: WastePrice) -> CostRanking {
        let mut ranking = CostRanking::new();
        self.for_each(prompt, price, |cost| {
            if ranking.len() < MAX_RANKED || cost.total < ranking[MAX_RANKED - 1].total {
                ranking.truncate(MAX_RANKED - 1);
                let place = ranking.partition_point(|other| other.total <= cost.total);
                ranking.insert(place, cost);
            }
        });
        ranking
    }

    /// The cost at every candidate, in their order.
    pub(super) fn for_each(
        &self,
        prompt: CostedPrompt<'_>,
        price: WastePrice,
        mut each: impl FnMut(EndpointCost),
    ) {
        let most = self.most_cached(prompt.hits);
        let common = prompt.credit.tokens.min(most);
        self.stretches(prompt.hits, |stretch, cached| {
            let uncached = f64::from(prompt.tokens.saturating_sub(cached));
            let wasted_prefill = f64::from(most.saturating_sub(cached)) * self.mean_per_token;
            let copied = f64::from(common.saturating_sub(cached)) * self.mean_per_token;
            for (candidate, endpoint) in stretch.clone().zip(&self.candidates[stretch]) {
                let &CandidateEndpoint {
                    position,
                    in_flight,
                    recent_prefill,
                    queue_delay,
                    base,
                    per_token,
                    ref split,
                    ..
                } = endpoint;
                let prefill = base + uncached * per_token;
                let SplitCost {
                    is_pair,
                    transfer,
                    answers,
                } = split.cost(position, prefill, prompt.handovers);
                let finish = queue_delay + prefill + transfer;
                let gamma = price.at(endpoint);
                let spared = prompt.credit.seconds.min((1.0 + gamma) * copied);
                let total = finish + gamma * wasted_prefill - spared
                    + answers
                    + PER_REQUEST * f64::from(in_flight)
                    + PER_SECOND * recent_prefill;
                each(EndpointCost {
                    candidate,
                    total,
                    finish,
                    wasted_prefill,
                    spared,
                    cached,
                    is_pair,
                    transfer,
                    answers,
                });
            }
        });
    }

    /// The longest hit at any of the candidates.
    fn most_cached(&self, hits: &PositionHits) -> u32 {
        let mut most = 0;
        self.stretches(hits, |stretch, cached| {
            if !stretch.is_empty() {
                most = most.max(cached);
            }
        });
        most
    }

    /// All candidates in order, in stretches that have the same part of the prompt cached: one
    /// candidate with a hit, or as many as there are without one until the next. So what is
    /// computed for each of a thousand candidates has no branch in it.
    fn stretches(&self, hits: &PositionHits, mut each: impl FnMut(Range<usize>, u32)) {
        let mut from = 0;
        for &(position, cached) in hits {
            let at = self.first_from(from, position);
            let is_candidate = self
                .candidates
                .get(at)
                .is_some_and(|candidate| candidate.position == position);
            let after = at + usize::from(is_candidate);
            each(from..at, 0);
            each(at..after, cached);
            from = after;
        }
        each(from..self.candidates.len(), 0);
    }

    /// The first candidate at this position or behind it, from `from` on.
    fn first_from(&self, from: usize, position: u32) -> usize {
        let rest = &self.candidates[from..];
        // Where all endpoints are candidates, it is as far behind the next one as their positions
        // say.
        let skip = rest
            .first()
            .map_or(0, |next| position.saturating_sub(next.position) as usize);
        if rest
            .get(skip)
            .is_some_and(|candidate| candidate.position == position)
        {
            return from + skip;
        }
        from + rest.partition_point(|candidate| candidate.position < position)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Endpoints of 8,000 tokens a second with these seconds of work ahead.
    fn candidates(queue_delay: &[f64]) -> CandidateSet {
        let candidate = |(position, &queue_delay): (usize, &f64)| CandidateEndpoint {
            position: position as u32,
            queue_delay,
            interference: 1.0,
            per_token: 1.0 / 8_000.0,
            ..CandidateEndpoint::default()
        };
        let candidates = queue_delay.iter().enumerate().map(candidate);
        CandidateSet::new(candidates.collect())
    }

    fn price(coming: f64) -> WastePrice {
        WastePrice {
            coming,
            waiting: 1.0,
        }
    }

    fn cheapest(candidates: &CandidateSet, tokens: u32, hits: &[(u32, u32)], gamma: f64) -> usize {
        candidates.ranking(
            CostedPrompt {
                tokens,
                hits: &hits.into(),
                credit: PrefixCredit::default(),
                handovers: None,
            },
            price(gamma),
        )[0]
        .candidate
    }

    #[test]
    fn a_cache_is_worth_waiting_for_as_long_as_others_pay_for_its_loss() {
        // A second of prefill is cached at the first endpoint, which has two seconds of work ahead.
        let candidates = candidates(&[2.0, 0.0]);
        assert_eq!(
            cheapest(&candidates, 9_000, &[(0, 8_000)], 0.5),
            1,
            "done half a second sooner"
        );
        assert_eq!(
            cheapest(&candidates, 9_000, &[(0, 8_000)], 1.5),
            0,
            "but others would lose more than that"
        );
        assert_eq!(
            cheapest(&candidates, 9_000, &[(0, 8_000), (7, 9_000)], 0.5),
            1,
            "hits elsewhere do not count"
        );
    }

    #[test]
    fn waste_is_dear_where_requests_wait_and_nowhere_else() {
        let mut candidates = candidates(&[0.5, 0.0]);
        candidates.candidates[0].waiting = 40.0;
        assert_eq!(
            cheapest(&candidates, 9_000, &[(0, 3_000)], 0.0),
            1,
            "those forty wait for the other one"
        );
        candidates.candidates[1].waiting = 1.0;
        assert_eq!(cheapest(&candidates, 9_000, &[(0, 3_000)], 0.0), 0);
    }

    #[test]
    fn credit_pays_for_a_copy_of_the_common_prefix_and_for_nothing_else() {
        let candidates = candidates(&[0.2, 0.0, 0.1]);
        let cheapest = |seconds, tokens| {
            let prompt = CostedPrompt {
                tokens: 9_000,
                hits: &PositionHits::from_slice(&[(0, 8_000)]),
                credit: PrefixCredit { seconds, tokens },
                handovers: None,
            };
            candidates.ranking(prompt, price(1.0))[0]
        };
        assert_eq!(cheapest(0.0, 4_000).candidate, 0);
        assert_eq!(cheapest(9.0, 4_000).candidate, 0, "the rest is its own");
        assert_eq!(cheapest(9.0, 0).candidate, 0);
        let copy = cheapest(9.0, 8_000);
        assert_eq!(copy.candidate, 1, "and not where there is a queue");
        assert!((copy.spared - 2.0).abs() < 1e-9, "a second, and γ");
        // Two seconds buy it; until then each request pays what it waits longer.
        let prompt = CostedPrompt {
            tokens: 9_000,
            hits: &PositionHits::from_slice(&[(0, 8_000)]),
            credit: PrefixCredit {
                seconds: 0.0,
                tokens: 8_000,
            },
            handovers: None,
        };
        let chosen = candidates.ranking(prompt, price(1.0))[0];
        assert!((candidates.rent(prompt, chosen, 0.3) - 0.5).abs() < 1e-9);
        let own = CostedPrompt {
            credit: PrefixCredit::default(),
            ..prompt
        };
        assert_eq!(candidates.rent(own, chosen, 0.3), 0.0);
    }

    #[test]
    fn a_slow_endpoint_is_left_alone_while_a_fast_one_will_be_done_sooner() {
        let mut candidates = candidates(&[1.0, 0.0]);
        candidates.candidates[1].per_token *= 2.5;
        assert_eq!(cheapest(&candidates, 8_000, &[], 3.0), 0);
        assert_eq!(cheapest(&candidates, 2_000, &[], 3.0), 1);
    }

    #[test]
    fn among_equals_the_one_with_fewer_requests_wins() {
        let mut candidates = candidates(&[0.0, 0.0, 0.0]);
        (
            candidates.candidates[0].in_flight,
            candidates.candidates[1].in_flight,
            candidates.candidates[2].in_flight,
        ) = (3, 1, 2);
        assert_eq!(cheapest(&candidates, 100, &[], 1.0), 1);
        assert!(
            CandidateSet::default()
                .ranking(
                    CostedPrompt {
                        tokens: 1,
                        hits: &PositionHits::new(),
                        credit: PrefixCredit::default(),
                        handovers: None,
                    },
                    price(1.0)
                )
                .is_empty()
        );
    }

    proptest! {
        #[test]
        fn every_candidate_is_weighed_with_its_own_hit_and_the_least_come_first(
            positions in proptest::collection::btree_set(0u32..20, 0..12),
            hits in proptest::collection::btree_map(0u32..20, 1u32..5_000, 0..12),
            queue_delay in proptest::collection::vec(0u32..50, 20),
        ) {
            let mut candidates = candidates(&vec![0.0; positions.len()]);
            for (candidate, &position) in candidates.candidates.iter_mut().zip(&positions) {
                (candidate.position, candidate.queue_delay) = (position, f64::from(queue_delay[position as usize]) / 10.0);
            }
            let lookup: PositionHits = hits.iter().map(|(position, cached)| (*position, *cached)).collect();
            let prompt = CostedPrompt { tokens: 6_000, hits: &lookup, credit: PrefixCredit::default(), handovers: None };
            let mut costs = Vec::new();
            candidates.for_each(prompt, price(1.5), |cost| costs.push(cost));
            let cached: Vec<u32> = positions.iter().map(|position| hits.get(position).copied().unwrap_or(0)).collect();
            prop_assert_eq!(costs.iter().map(|cost| cost.cached).collect::<Vec<_>>(), cached);
            prop_assert!(costs.iter().map(|cost| cost.candidate).eq(0..positions.len()));
            costs.sort_by(|one, other| one.total.total_cmp(&other.total));
            costs.truncate(MAX_RANKED);
            prop_assert_eq!(candidates.ranking(prompt, price(1.5)).to_vec(), costs);
        }
    }
}
