//! What it costs that a decode endpoint takes a prompt over from the endpoint that computed it, and
//! which one does so best.

use std::{cmp::Ordering, time::Duration};

use super::Fleet;
use crate::{
    pick::{Distance, HealthRank, PartnerRank},
    query::Query,
    scheduler::{
        cost::{Handover, Handovers, RankedHandover, SplitTerms},
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

/// What a transfer is assumed to take besides, in seconds, until pairs have shown it.
const ASSUMED_BASE: f64 = 0.02;

/// Tokens of a KV cache that are assumed to be moved in a second until then: of a model of 8 B
/// parameters (131,072 bytes a token) over half of 100 Gbit/s.
const ASSUMED_RATE: f64 = 5e4;

/// How well a decode endpoint takes a prompt over: less is better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::scheduler) struct TakeoverRank {
    health: HealthRank,
    ranked: RankedHandover,
}

impl PartialOrd for TakeoverRank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let health = self.health.cmp(&other.health);
        Some(health.then_with(|| self.ranked.compare(&other.ranked)))
    }
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
        let site = self.picker.pair_site(position);
        let site = site.filter(|site| site.computes);
        if site.is_some() && !self.picker.serves_alone(position) {
            return SplitTerms {
                serves_alone: false,
                site,
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
            site: site.filter(|_| self.makes_pairs_of_both()),
            delay: self.delay(position) + loss,
            answer: self.answer(position, now),
        }
    }

    /// That decode endpoints take this prompt over; `None` if the request is not split.
    pub(in crate::scheduler) fn handovers(
        &self,
        query: &Query,
        model: Option<&str>,
        lookup: &CacheLookup,
        now: Duration,
    ) -> Option<Handovers> {
        if !query.split {
            return None;
        }
        let groups = self.picker.pair_groups();
        let decodes = (0..groups).flat_map(|group| self.picker.decodes(group, model));
        let ready = decodes.filter(|&position| self.loads[position].health.takes_turns());
        let sited = ready.filter_map(|position| Some((position, self.picker.pair_site(position)?)));
        let shared = self.picker.shared_places();
        let weigh = |position, distance| self.handover(position, distance, (query, lookup), now);
        Some(Handovers::of(groups, shared, sited, weigh))
    }

    /// How well the decode endpoint of a pair takes this prompt over; `draw` decides whether it is
    /// its turn, if it warms up.
    pub(in crate::scheduler) fn takeover_rank(
        &self,
        (prefill, decode): (usize, usize),
        prompt: (&Query, &CacheLookup),
        draw: f32,
        now: Duration,
    ) -> TakeoverRank {
        let distance = self.picker.distance(prefill, decode);
        TakeoverRank {
            health: HealthRank::of(self.loads[decode].health, draw),
            ranked: self.handover(decode, distance, prompt, now),
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
        let decodes = self.picker.decodes(group, model);
        let others = decodes.filter(|&decode| decode != prefill);
        let ranked = others.map(|decode| {
            let rank = self.takeover_rank((prefill, decode), (query, lookup), 0.0, now);
            (rank, decode)
        });
        let best = ranked.reduce(|best, other| if other.0 < best.0 { other } else { best });
        best.map(|(_, decode)| decode)
    }

    /// Whether pairs are compared with endpoints that serve whole requests: what they cost is known,
    /// or assumed, where no endpoint is there for pairs only.
    pub(in crate::scheduler) fn compares_pairs(&self) -> bool {
        self.are_transfers_known() || !self.picker.has_prefill_endpoints()
    }

    /// Whether endpoints that do both may be prefill halves: as pairs are compared, but where nothing
    /// is known only a few are tried.
    fn makes_pairs_of_both(&self) -> bool {
        let may_be_tried = || self.transfers.may_be_tried(self.answers);
        self.are_transfers_known() || (!self.picker.has_prefill_endpoints() && may_be_tried())
    }

    /// Whether pairs have shown how long transfers take.
    pub(in crate::scheduler) fn are_transfers_known(&self) -> bool {
        self.transfers.are_known()
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
        let others = decodes.filter(|&decode| decode != prefill);
        let mut ready = others.filter(|&position| self.loads[position].health.takes_turns());
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

    /// That the decode endpoint at a position takes this prompt over from a distance.
    fn handover(
        &self,
        position: usize,
        distance: Distance,
        (query, lookup): (&Query, &CacheLookup),
        now: Duration,
    ) -> RankedHandover {
        let moved = self.moved_tokens(position, query, lookup).into();
        // Where nothing shows what a larger batch costs, the nearest endpoint would get all of them.
        let transfer = if self.decoding.slows_with_batch() {
            self.transfers.seconds_over(distance, moved)
        } else {
            self.transfers.seconds(moved)
        };
        RankedHandover {
            is_full: !self.takes(position, query),
            handover: Handover {
                transfer: transfer.unwrap_or_else(|| self.assumed_transfer(moved)),
                answer: self.answer(position, now),
            },
            batch: self.batch(position) as f32 - distance.handicap(),
        }
    }

    /// Seconds of a transfer while pairs have shown nothing. Where some endpoint is there for pairs
    /// only, they are made until they have. Else one is tried where it would be worth it with the
    /// assumption, which is a slow one: an engine that cannot be half of a pair would compute a
    /// prompt twice.
    fn assumed_transfer(&self, tokens: f64) -> f64 {
        if self.picker.has_prefill_endpoints() {
            0.0
        } else {
            ASSUMED_BASE + tokens / ASSUMED_RATE
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
