//! The queued requests of one eligible set.

use std::{sync::Arc, time::Duration};

use super::{
    request::{QueuedRequest, UrgencyEntry},
    work::QueuedWork,
};
use crate::{ledger::RequestKey, pick::EligibleSet};

/// No endpoint, in [`SetQueue::wanted`].
const NOWHERE: u32 = u32::MAX;

/// See the module. Removal takes constant time at any place and moves the last request there.
#[derive(Debug)]
pub(super) struct SetQueue {
    pub(super) eligible: Option<Arc<EligibleSet>>,
    /// `None` while a request is checked out.
    pub(super) waiting: Vec<Option<Box<QueuedRequest>>>,
    /// Parallel: the fields of the order, contiguous, because all of them are read for every
    /// decision.
    pub(super) ranks: Vec<UrgencyEntry>,
    /// Parallel: the position where each cost least when it was examined, or [`NOWHERE`] while it
    /// does not count as queued work.
    wanted: Vec<u32>,
}

impl SetQueue {
    pub(super) const fn new(eligible: Option<Arc<EligibleSet>>) -> Self {
        Self {
            eligible,
            waiting: Vec::new(),
            ranks: Vec::new(),
            wanted: Vec::new(),
        }
    }

    /// Adds a request that counts at the position `wanted`; returns its place.
    pub(super) fn push(&mut self, waiting: Box<QueuedRequest>, wanted: Option<u32>) -> u32 {
        self.ranks.push(UrgencyEntry::of(&waiting));
        self.waiting.push(Some(waiting));
        self.wanted.push(wanted.unwrap_or(NOWHERE));
        self.ranks.len() as u32 - 1
    }

    /// Frees the place of a request. Returns its entry, and the key of the request that is moved
    /// there.
    pub(super) fn leave(
        &mut self,
        place: usize,
        work: &mut QueuedWork,
    ) -> (UrgencyEntry, Option<RequestKey>) {
        self.uncount(place, work);
        self.waiting.swap_remove(place);
        self.wanted.swap_remove(place);
        let rank = self.ranks.swap_remove(place);
        (rank, self.ranks.get(place).map(|rank| rank.key))
    }

    /// A request returns to its place, with its present urgency, and counts at the position
    /// `wanted`.
    pub(super) fn check_in(
        &mut self,
        place: usize,
        waiting: Box<QueuedRequest>,
        wanted: u32,
        work: &mut QueuedWork,
    ) {
        self.uncount(place, work);
        let rank = UrgencyEntry::of(&waiting);
        work.add(wanted, rank.service);
        (self.ranks[place], self.wanted[place]) = (rank, wanted);
        self.waiting[place] = Some(waiting);
    }

    /// No request counts as queued work any more.
    pub(super) fn uncount_all(&mut self, work: &mut QueuedWork) {
        for (wanted, rank) in self.wanted.iter_mut().zip(&self.ranks) {
            if *wanted != NOWHERE {
                work.remove(*wanted, rank.service);
                *wanted = NOWHERE;
            }
        }
    }

    fn uncount(&mut self, place: usize, work: &mut QueuedWork) {
        let wanted = std::mem::replace(&mut self.wanted[place], NOWHERE);
        if wanted != NOWHERE {
            work.remove(wanted, self.ranks[place].service);
        }
    }

    /// The `most` most urgent requests with their urgency, the most urgent first.
    pub(super) fn order(&self, most: usize, now: Duration) -> Vec<(f64, RequestKey)> {
        let urgencies = self
            .ranks
            .iter()
            .enumerate()
            .map(|(place, rank)| (rank.urgency(now), place as u32));
        let mut order: Vec<(f64, u32)> = urgencies.collect();
        let before =
            |(a, one): &(f64, u32), (b, other): &(f64, u32)| b.total_cmp(a).then(one.cmp(other));
        if order.len() > most {
            order.select_nth_unstable_by(most, before);
            order.truncate(most);
        }
        order.sort_unstable_by(before);
        order
            .into_iter()
            .map(|(urgency, place)| (urgency, self.ranks[place as usize].key))
            .collect()
    }
}
