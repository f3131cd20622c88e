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
    /// Parallel: the position that each waits for, or [`NOWHERE`] while it is checked out or was
    /// not examined since the pool changed.
    waits_for: Vec<u32>,
}

impl SetQueue {
    pub(super) const fn new(eligible: Option<Arc<EligibleSet>>) -> Self {
        Self {
            eligible,
            waiting: Vec::new(),
            ranks: Vec::new(),
            wanted: Vec::new(),
            waits_for: Vec::new(),
        }
    }

    /// Adds a request that costs least at the position `wanted`; returns its place.
    pub(super) fn push(
        &mut self,
        waiting: Box<QueuedRequest>,
        wanted: Option<u32>,
        work: &mut QueuedWork,
    ) -> u32 {
        if let Some(position) = wanted {
            work.add(position, waiting.service);
            work.wait(position);
        }
        self.ranks.push(UrgencyEntry::of(&waiting));
        self.waiting.push(Some(waiting));
        self.wanted.push(wanted.unwrap_or(NOWHERE));
        self.waits_for.push(wanted.unwrap_or(NOWHERE));
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
        self.wait_no_more(place, work);
        self.waiting.swap_remove(place);
        self.wanted.swap_remove(place);
        self.waits_for.swap_remove(place);
        let rank = self.ranks.swap_remove(place);
        (rank, self.ranks.get(place).map(|rank| rank.key))
    }

    /// Checks a request out, which waits for no endpoint until it returns. Returns the position
    /// that it waited for, too.
    pub(super) fn check_out(
        &mut self,
        place: usize,
        work: &mut QueuedWork,
    ) -> Option<(Box<QueuedRequest>, Option<u32>)> {
        let waiting = self.waiting[place].take()?;
        let position = self.wait_no_more(place, work);
        Some((waiting, position))
    }

    /// A request returns to its place, with its present urgency, and costs least at the position
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
        self.wait_no_more(place, work);
        work.wait(wanted);
        self.waits_for[place] = wanted;
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

    fn wait_no_more(&mut self, place: usize, work: &mut QueuedWork) -> Option<u32> {
        let position = std::mem::replace(&mut self.waits_for[place], NOWHERE);
        (position != NOWHERE).then(|| {
            work.wait_no_more(position);
            position
        })
    }

    /// The `most` most urgent requests with their urgency, the most urgent first. One pass over all
    /// and, as most of them are behind the last of those, little else.
    pub(super) fn order(&self, most: usize, now: Duration) -> Vec<(f64, RequestKey)> {
        let now = now.as_secs_f64();
        let before = |(a, one): &(f64, u32), (b, other): &(f64, u32)| {
            b.total_cmp(a).then(one.cmp(other)).is_lt()
        };
        let mut order: Vec<(f64, u32)> = Vec::with_capacity(most.min(self.ranks.len()));
        for (place, rank) in self.ranks.iter().enumerate() {
            let entry = (rank.urgency(now), place as u32);
            if order.len() == most {
                if order.last().is_none_or(|last| !before(&entry, last)) {
                    continue;
                }
                order.pop();
            }
            order.insert(order.partition_point(|other| before(other, &entry)), entry);
        }
        order
            .into_iter()
            .map(|(urgency, place)| (urgency, self.ranks[place as usize].key))
            .collect()
    }
}
