//! What it costs that a decode endpoint takes a prompt over from the endpoint that computed it, and
//! which one does so best.

use std::time::Duration;

use super::Fleet;
use crate::{
    pick::{HealthRank, PartnerRank},
    query::Query,
    scheduler::{
        cost::{Handover, Handovers, SplitTerms},
        lookup::CacheLookup,
    },
    snapshot::Role,
};

/// How long a prompt may wait at a full decode endpoint. An engine queues what it has no memory for
/// and preempts nothing for it. Without a queue there its memory idles, from the moment when an
/// answer frees it until a prompt that waited for that here is computed and moved.
const ENGINE_WAIT: Duration = Duration::from_secs(2);

/// What a second of prefill at a decode endpoint costs later prompts, in seconds until a first
/// token. Its cache is where all prompts of the group pass through, so that what is computed there
/// is displaced sooner than at a prefill endpoint: some turn of each conversation is computed again.
const CACHE_LOSS: f64 = 0.2;

/// How well a decode endpoint takes a prompt over: less is better.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(in crate::scheduler) struct TakeoverRank {
    health: HealthRank,
    /// Its memory does not take the prompt without preempting others.
    is_full: bool,
    /// Seconds, of transfer and of answers.
    cost: f64,
}

impl PartnerRank for TakeoverRank {
    fn is_down(&self) -> bool {
        self.health == HealthRank::Down
    }
}

impl Fleet {
    /// What a candidate at a position is for requests that may be split.
    pub(super) fn split_terms(&self, position: usize, now: Duration) -> SplitTerms {
        if self.picker.pair_groups() == 0 {
            return SplitTerms::default();
        }
        let is_prefill = self.pool().endpoints[position].role == Role::Prefill;
        let group = self.picker.pair_group(position).filter(|_| is_prefill);
        if group.is_some() {
            return SplitTerms {
                serves_alone: false,
                group,
                delay: 0.0,
                answer: 0.0,
            };
        }
        let loss = if self.is_decode(position) {
            CACHE_LOSS
        } else {
            0.0
        };
        SplitTerms {
            serves_alone: true,
            group,
            delay: self.delay(position) + loss,
            answer: self.answer(position, now),
        }
    }

    /// That each group takes this prompt over. Empty if the request is not split.
    pub(in crate::scheduler) fn handovers(
        &self,
        query: &Query,
        model: Option<&str>,
        lookup: &CacheLookup,
        now: Duration,
    ) -> Handovers {
        if !query.split {
            return Handovers::new();
        }
        let groups = 0..self.picker.pair_groups();
        let handover = |group| {
            let decodes = self.picker.decodes(group, model);
            let ready = decodes.filter(|&position| self.loads[position].health.takes_turns());
            let handovers = ready.map(|position| {
                let handover = self.handover(position, query, lookup, now);
                (!self.takes(position, query), handover)
            });
            let cost = |handover: &Handover| handover.transfer + handover.answer;
            let best = handovers.min_by(|(is_full, one), (other_is_full, other)| {
                let full = is_full.cmp(other_is_full);
                full.then(cost(one).total_cmp(&cost(other)))
            });
            best.map_or(Handover::IMPOSSIBLE, |(_, handover)| handover)
        };
        groups.map(handover).collect()
    }

    /// How well the decode endpoint at a position takes this prompt over; `draw` decides whether it
    /// is its turn, if it warms up.
    pub(in crate::scheduler) fn takeover_rank(
        &self,
        position: usize,
        (query, lookup): (&Query, &CacheLookup),
        draw: f32,
        now: Duration,
    ) -> TakeoverRank {
        let handover = self.handover(position, query, lookup, now);
        TakeoverRank {
            health: HealthRank::of(self.loads[position].health, draw),
            is_full: !self.takes(position, query),
            cost: handover.transfer + handover.answer,
        }
    }

    /// The decode endpoint that takes this prompt over best from a position.
    pub(in crate::scheduler) fn best_decode(
        &self,
        prefill: usize,
        (query, model): (&Query, Option<&str>),
        lookup: &CacheLookup,
        now: Duration,
    ) -> Option<usize> {
        let group = self.picker.pair_group(prefill)?;
        let ranked = self.picker.decodes(group, model).map(|position| {
            let rank = self.takeover_rank(position, (query, lookup), 0.0, now);
            (rank, position)
        });
        let best = ranked.reduce(|best, other| if other.0 < best.0 { other } else { best });
        best.map(|(_, position)| position)
    }

    /// Whether pairs have shown how long transfers take.
    pub(in crate::scheduler) fn are_transfers_known(&self) -> bool {
        self.transfers.seconds(0.0).is_some()
    }

    /// Whether a decode endpoint that could take over from this position in `seconds` will then have
    /// memory for the prompt within [`ENGINE_WAIT`]. True where none of them is up: to wait is of no
    /// use.
    pub(in crate::scheduler) fn is_taken_over(
        &self,
        prefill: usize,
        need: (&Query, Option<&str>),
        seconds: f64,
    ) -> bool {
        let (query, model) = need;
        let Some(group) = self.picker.pair_group(prefill) else {
            return true;
        };
        let decodes = self.picker.decodes(group, model);
        let mut ready = decodes.filter(|&position| self.loads[position].health.takes_turns());
        let mut is_any_ready = false;
        ready.any(|position| {
            is_any_ready = true;
            let freed = self.freed_in(position, seconds + ENGINE_WAIT.as_secs_f64());
            self.takes_after(freed, position, query)
        }) || !is_any_ready
    }

    /// Whether an endpoint takes over what others compute.
    pub(super) fn is_decode(&self, position: usize) -> bool {
        let is_decode = self.pool().endpoints[position].role == Role::Decode;
        is_decode && self.picker.pair_group(position).is_some()
    }

    /// Whether the memory at a position takes the prompt without preempting others.
    fn takes(&self, position: usize, query: &Query) -> bool {
        self.takes_after(0, position, query)
    }

    /// The same, once `freed` tokens of those in use there are free.
    fn takes_after(&self, freed: u32, position: usize, query: &Query) -> bool {
        let engine = &self.engines[position];
        // What it shares with running prompts is looked up only where that matters.
        engine.fits_after(freed, query.prompt_tokens)
            || engine.fits_after(freed, self.memory(position, query))
    }

    fn handover(
        &self,
        position: usize,
        query: &Query,
        lookup: &CacheLookup,
        now: Duration,
    ) -> Handover {
        let moved = self.moved_tokens(position, query, lookup);
        Handover {
            transfer: self.transfers.seconds(moved.into()).unwrap_or(0.0),
            answer: self.answer(position, now),
        }
    }

    /// Tokens of a prompt that the decode endpoint at a position would take over: all but those that
    /// it has.
    pub(in crate::scheduler) fn moved_tokens(
        &self,
        position: usize,
        query: &Query,
        lookup: &CacheLookup,
    ) -> u32 {
        let hits = &lookup.hits;
        let hit = hits.binary_search_by_key(&(position as u32), |&(position, _)| position);
        let cached = hit.map_or(0, |hit| hits[hit].1);
        query.prompt_tokens.saturating_sub(cached)
    }
}
