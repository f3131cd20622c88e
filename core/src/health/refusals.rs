//! Refusals of one endpoint, counted beside those of its peers: outlier detection.
//!
//! A refusal is an answer that is no failure by itself and gave the client nothing: a 4xx, or a 200
//! that holds no answer. The request may be wrong, or the endpoint: another key, another model, a
//! smaller context. One answer does not show which; two things do:
//!
//! * **A second opinion.** The request is repeated at a peer. A peer that serves it contradicts the
//!   refusal; a peer that refuses it alike confirms it, and it is held against no endpoint.
//! * **Shares.** An endpoint that refuses most of what it gets, while its peers serve what they
//!   get, is an outlier.
//!
//! Counts are kept for the current and the previous window, so that what happened long ago is
//! forgotten. Pure: time is an argument.

use std::time::Duration;

use serde::Serialize;

use crate::load::Health;

/// Length of one window of counts.
const WINDOW: Duration = Duration::from_secs(30);
/// Refusals in a row after which the next one gets a second opinion: those before it are taken for
/// the client's.
const PATIENCE: u32 = 2;
/// Longest patience: it doubles whenever a second opinion confirms a refusal.
const LONGEST_PATIENCE: u32 = 16;
/// Refusals without which an endpoint is no outlier.
const FLOOR: u32 = 10;
/// Refusals that one contradicted by a peer counts for.
const CONTRADICTED: u32 = 5;
/// Answers of peers without which their share says nothing, unless they contradicted.
const PEERS_FLOOR: u32 = 3;
/// How far the share of refusals of an outlier is above its peers'.
const DISTANCE: f64 = 0.5;

/// Answers within the counted windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AnswerCounts {
    /// Requests that were served.
    pub served: u32,
    /// Requests that were refused, whosever fault it was, and that a peer might have served.
    pub refused: u32,
    /// How much of the refusals counts against the endpoint: 0 for confirmed ones.
    pub against: u32,
    /// Requests for which this endpoint and another one said 429: clients over their quota.
    pub limited: u32,
}

/// The other endpoints of a pool, together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerAnswers {
    /// Their answers.
    pub counts: AnswerCounts,
    /// How many they are.
    pub endpoints: u32,
    /// How many of them take no turn: they are out of service, or cool down.
    pub set_aside: u32,
}

/// What a second opinion said about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondOpinion {
    /// No peer was asked.
    None,
    /// No peer may be asked: one endpoint stores what the request refers to, or the request may not
    /// be repeated.
    Unavailable,
    /// A peer served the request.
    Contradicted,
    /// A peer refused the request alike: it is the client's.
    Confirmed,
}

/// The answers of one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct RefusalRecord {
    current: AnswerCounts,
    previous: AnswerCounts,
    /// When the current window began.
    began: Duration,
    /// Refusals since the last request that was served, and the last confirmed one.
    in_row: u32,
    /// How often second opinions confirmed refusals since the last one that did not; halved with
    /// each window. While it is above 0, other refusals are taken for the client's, too.
    confirmed: u32,
}

// === AnswerCounts ===

impl AnswerCounts {
    /// The sum of both.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            served: self.served.saturating_add(other.served),
            refused: self.refused.saturating_add(other.refused),
            against: self.against.saturating_add(other.against),
            limited: self.limited.saturating_add(other.limited),
        }
    }

    /// The share of refusals, 0..=1; 0 when there was no answer.
    fn refused_share(self) -> f64 {
        let answers = f64::from(self.served) + f64::from(self.refused);
        f64::from(self.refused) / answers.max(1.0)
    }
}

// === PeerAnswers ===

impl PeerAnswers {
    /// Endpoints that one is compared with at most.
    const MOST: usize = 64;

    /// The positions of the peers of the endpoint at `own`, in a pool of `endpoints`: all others,
    /// or the nearest 64. Endpoints are sorted by a hash, so these are a sample of all.
    pub fn positions(own: usize, endpoints: usize) -> impl Iterator<Item = usize> {
        let others = (own + 1..endpoints).chain(0..own.min(endpoints));
        others.take(Self::MOST)
    }

    /// Adds one of them.
    pub fn add(&mut self, counts: AnswerCounts, health: Health) {
        self.counts = self.counts.plus(counts);
        self.endpoints += 1;
        self.set_aside += u32::from(!health.takes_turns());
    }

    /// Whether the pool can do without one more: at most half of it is set aside.
    pub(super) const fn can_spare_one(self) -> bool {
        (self.set_aside + 1) * 2 <= self.endpoints + 1
    }

    /// Whether they serve requests, and do without one more endpoint.
    pub(super) const fn can_stand_in(self) -> bool {
        self.counts.served > 0 && self.can_spare_one()
    }

    /// Whether they refuse more than they serve: then it is how this pool answers.
    #[must_use]
    pub const fn refuse_alike(self) -> bool {
        self.counts.refused > self.counts.served
    }
}

// === RefusalRecord ===

impl RefusalRecord {
    /// A request was served.
    pub fn on_served(&mut self, now: Duration) {
        self.turn(now);
        self.current.served = self.current.served.saturating_add(1);
        self.in_row = 0;
    }

    /// A request was refused.
    pub fn on_refused(&mut self, now: Duration, opinion: SecondOpinion) {
        self.turn(now);
        let in_row = self.in_row.saturating_add(1);
        let (in_row, against) = match opinion {
            // Its peers have none like it to compare with.
            SecondOpinion::Unavailable => return,
            SecondOpinion::None => (in_row, u32::from(self.confirmed == 0)),
            SecondOpinion::Contradicted => {
                self.confirmed = 0;
                (in_row, CONTRADICTED)
            }
            SecondOpinion::Confirmed => {
                self.confirmed = self.confirmed.saturating_add(1);
                (0, 0)
            }
        };
        self.in_row = in_row;
        self.current = self.current.plus(AnswerCounts {
            refused: 1,
            against,
            ..AnswerCounts::default()
        });
    }

    /// Another endpoint said 429 to the same request, too.
    pub fn on_limited(&mut self, now: Duration) {
        self.turn(now);
        self.current.limited = self.current.limited.saturating_add(1);
    }

    /// The answers of the counted windows.
    #[must_use]
    pub fn counts(&self, now: Duration) -> AnswerCounts {
        let mut record = *self;
        record.turn(now);
        record.current.plus(record.previous)
    }

    /// Whether a refusal that just came, and is not counted yet, is to be repeated at a peer. A
    /// client's mistake is not: only an endpoint that refused several requests in a row is asked
    /// about, and only if its peers do not refuse as well.
    #[must_use]
    pub fn needs_second_opinion(&self, peers: &PeerAnswers) -> bool {
        let patience = PATIENCE << self.confirmed.min(LONGEST_PATIENCE.ilog2());
        self.in_row >= patience.min(LONGEST_PATIENCE) && !peers.refuse_alike()
    }

    /// Whether the endpoint refuses far more than its peers, and the pool can do without it.
    #[must_use]
    pub fn is_outlier(&self, now: Duration, peers: &PeerAnswers) -> bool {
        let own = self.counts(now);
        let is_compared = peers.counts.served >= PEERS_FLOOR || own.against > own.refused;
        own.against >= FLOOR
            && is_compared
            && own.refused_share() - peers.counts.refused_share() >= DISTANCE
            && peers.can_spare_one()
    }

    /// Begins new windows when the current one is over.
    fn turn(&mut self, now: Duration) {
        let age = now.saturating_sub(self.began);
        if age < WINDOW {
            return;
        }
        self.previous = if age < WINDOW * 2 {
            self.current
        } else {
            AnswerCounts::default()
        };
        self.current = AnswerCounts::default();
        self.confirmed /= 2;
        self.began = now;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn peers(served: u32, refused: u32) -> PeerAnswers {
        let mut peers = PeerAnswers::default();
        let against = refused;
        peers.add(
            AnswerCounts {
                served,
                refused,
                against,
                limited: 0,
            },
            Health::Up,
        );
        peers
    }

    fn refused(times: u32, opinion: SecondOpinion) -> RefusalRecord {
        let mut record = RefusalRecord::default();
        (0..times).for_each(|_| record.on_refused(NOW, opinion));
        record
    }

    #[test]
    fn peers_are_all_other_endpoints_or_the_nearest() {
        let peers: Vec<usize> = PeerAnswers::positions(2, 5).collect();
        assert_eq!(peers, [3, 4, 0, 1]);
        let peers: Vec<usize> = PeerAnswers::positions(990, 1_000).collect();
        assert_eq!((peers.len(), peers[0], peers[63]), (64, 991, 54));
        assert_eq!(PeerAnswers::positions(0, 1).count(), 0);
    }

    #[test]
    fn an_endpoint_that_refuses_what_its_peers_serve_is_an_outlier() {
        let record = refused(9, SecondOpinion::None);
        assert!(!record.is_outlier(NOW, &peers(9, 0)), "too few");
        let record = refused(10, SecondOpinion::None);
        assert!(record.is_outlier(NOW, &peers(10, 0)));
        assert!(!record.is_outlier(NOW, &peers(0, 0)), "nothing to compare");
        assert!(!record.is_outlier(NOW, &peers(5, 6)), "they refuse as well");
    }

    #[test]
    fn two_contradicted_refusals_are_enough() {
        assert!(!refused(1, SecondOpinion::Contradicted).is_outlier(NOW, &peers(1, 0)));
        assert!(refused(2, SecondOpinion::Contradicted).is_outlier(NOW, &peers(2, 0)));
    }

    #[test]
    fn confirmed_refusals_are_held_against_no_endpoint() {
        let record = refused(1_000, SecondOpinion::Confirmed);
        assert!(!record.is_outlier(NOW, &peers(1_000, 0)));
    }

    #[test]
    fn refusals_of_requests_that_no_peer_may_get_are_not_counted() {
        let mut record = refused(1_000, SecondOpinion::Unavailable);
        assert_eq!(record.counts(NOW), AnswerCounts::default());
        assert!(!record.needs_second_opinion(&peers(1, 0)));
        (0..9).for_each(|_| record.on_refused(NOW, SecondOpinion::None));
        assert!(!record.is_outlier(NOW, &peers(9, 0)));
    }

    #[test]
    fn at_most_half_of_a_pool_is_set_aside() {
        let record = refused(10, SecondOpinion::None);
        let mut peers = peers(10, 0);
        peers.add(AnswerCounts::default(), Health::Down);
        assert!(!record.is_outlier(NOW, &peers), "two of three");
        peers.add(AnswerCounts::default(), Health::Up);
        assert!(record.is_outlier(NOW, &peers), "two of four");
        assert!(!record.is_outlier(NOW, &PeerAnswers::default()), "the only");
    }

    #[test]
    fn endpoints_that_cool_down_are_set_aside_and_those_that_warm_up_are_not() {
        let mut peers = PeerAnswers::default();
        peers.add(AnswerCounts::default(), Health::Warming(0.0));
        peers.add(AnswerCounts::default(), Health::Warming(0.1));
        assert_eq!((peers.endpoints, peers.set_aside), (2, 1));
    }

    #[test]
    fn the_first_refusals_in_a_row_are_taken_for_the_clients() {
        let peers = peers(1, 0);
        assert!(!refused(0, SecondOpinion::None).needs_second_opinion(&peers));
        assert!(!refused(1, SecondOpinion::None).needs_second_opinion(&peers));
        let mut record = refused(2, SecondOpinion::None);
        assert!(record.needs_second_opinion(&peers));
        record.on_served(NOW);
        assert!(!record.needs_second_opinion(&peers));
    }

    #[test]
    fn every_confirmation_makes_second_opinions_rarer() {
        let peers = peers(10, 0);
        let mut record = RefusalRecord::default();
        let asked = (0..1_000)
            .filter(|_| {
                let asks = record.needs_second_opinion(&peers);
                let opinion = if asks {
                    SecondOpinion::Confirmed
                } else {
                    SecondOpinion::None
                };
                record.on_refused(NOW, opinion);
                asks
            })
            .count();
        assert!(asked < 70, "{asked} of 1000");
        assert_eq!(record.counts(NOW).against, 2, "those before the first");
    }

    #[test]
    fn when_the_peers_refuse_as_well_no_second_opinion_is_asked() {
        let record = refused(50, SecondOpinion::None);
        assert!(!record.needs_second_opinion(&peers(1, 2)));
        assert!(
            record.needs_second_opinion(&peers(0, 0)),
            "nothing is known"
        );
    }

    #[test]
    fn old_answers_are_forgotten() {
        let record = refused(10, SecondOpinion::None);
        assert!(record.is_outlier(NOW + WINDOW, &peers(10, 0)));
        assert!(!record.is_outlier(NOW + WINDOW * 2, &peers(10, 0)));
    }

    proptest! {
        /// Clients' mistakes that hit endpoints at random make no outlier, however many they are.
        #[test]
        fn equal_endpoints_are_no_outliers(seed: u64, wrong in 0u64..=100) {
            let mut rng = crate::rng::SeededRng::new(seed);
            let mut records = [RefusalRecord::default(); 4];
            for _ in 0..2_000 {
                let at = rng.below(4);
                if rng.below(100) < wrong as usize {
                    records[at].on_refused(NOW, SecondOpinion::None);
                } else {
                    records[at].on_served(NOW);
                }
            }
            for at in 0..4 {
                let mut peers = PeerAnswers::default();
                let others = (0..4).filter(|other| *other != at);
                others.for_each(|other| peers.add(records[other].counts(NOW), Health::Up));
                prop_assert!(!records[at].is_outlier(NOW, &peers));
            }
        }
    }
}
