//! What the caches of one pool hold, told by the engines themselves: an exact index of KV blocks.
//!
//! ```text
//!   stream of a rank ──▶ Rank ──changes──▶ Residency ◀── hits(tokens, identity)
//!                     engine's name        our name of a block ─▶ set of seats, each with its tiers
//!                     ─▶ our name
//! ```
//!
//! Blocks go by names of our own, chained over token ids ([`content`](mod@content)), so that engines with other hash
//! algorithms, seeds and widths meet in one index. Adapter and salt are in the chain: no hit crosses them. A block counts for
//! an endpoint only if that endpoint's own stream told of it, and all blocks before it.
//!
//! Invariants:
//! * pure: no clock, no lock, no I/O. The owner of a stream has its [`Rank`]; whoever shares the index guards it with a lock,
//!   applies changes in slices, and so keeps the lock for microseconds;
//! * clearing and closing a rank take constant time; what it held is swept away in slices and counts for nothing meanwhile;
//! * bounded: at most [`MAX_BLOCKS`] blocks a rank, [`MAX_SIZES`] block sizes a rank; memory is given back with the blocks.
//!
//! It does not know streams, sequences or endpoints' health, only what [`Standing`] its caller gives each rank.

mod content;
mod event;
mod rank;
mod sets;
mod table;
mod walk;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use smallvec::SmallVec;

pub use self::{
    content::{Adapter, Extras, content, link, root},
    event::{Attention, Event, Removed, Stored, Tier},
    rank::{Change, MAX_BLOCKS, MAX_SIZES, Overfull, Rank, Tally},
};
use self::{
    event::Tiers,
    rank::Rest,
    sets::{Holder, SetId, Sets},
    table::Table,
    walk::{Reach, walk},
};
use crate::{
    query::{Cached, Hit, Source},
    snapshot::EndpointId,
};

/// Shards of the map of all blocks: a shard of ten million blocks moves in a fraction of a millisecond.
const SHARDS: usize = 1_024;

/// The index of one pool; see the module.
#[derive(Debug)]
pub struct Residency {
    blocks: Table<SetId>,
    sets: Sets,
    seats: Vec<Option<Stand>>,
    free: Vec<Seat>,
    /// Whose ranks sit where, by endpoint.
    roster: Vec<(EndpointId, Seat)>,
    /// Block sizes in use, and by how many seats.
    sizes: BTreeMap<u32, usize>,
    /// What ranks held that were cleared or closed.
    leftovers: VecDeque<(Seat, Rest)>,
}

/// What keeps caches of equal tokens apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The LoRA adapter; nothing for the base model.
    pub adapter: Option<Arc<str>>,
    /// The request's `cache_salt`.
    pub salt: Option<Arc<str>>,
}

/// How much a rank's knowledge is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Nothing: its stream is broken, or has only begun.
    #[default]
    Dark,
    /// What it holds is true, and there may be more: its stream was joined late, or has lost a part.
    Partial,
    /// It is the whole truth: what it does not hold is not there.
    Whole,
}

/// A rank's place among the holders of blocks. A rank that is cleared gets another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Seat(u32);

/// Who sits on a seat.
#[derive(Debug)]
struct Stand {
    endpoint: EndpointId,
    standing: Standing,
    sizes: SmallVec<[u32; MAX_SIZES]>,
}

// === Residency ===

impl Default for Residency {
    fn default() -> Self {
        Self {
            blocks: Table::new(SHARDS),
            sets: Sets::default(),
            seats: Vec::new(),
            free: Vec::new(),
            roster: Vec::new(),
            sizes: BTreeMap::new(),
            leftovers: VecDeque::new(),
        }
    }
}

impl Residency {
    /// Adds a rank of this endpoint, which stands [`Standing::Dark`] and has to be closed in the end.
    pub fn open(&mut self, endpoint: EndpointId) -> Rank {
        Rank::new(self.sit(endpoint, Standing::Dark))
    }

    /// Says what a rank's knowledge is worth from now on.
    pub fn stand(&mut self, rank: &Rank, standing: Standing) {
        if let Some(stand) = self.stand_of(rank.seat) {
            stand.standing = standing;
        }
    }

    /// Makes true what `rank` gave as changes. A lock around this index is held for as long: give it slices.
    pub fn apply(&mut self, rank: &Rank, changes: &[Change]) {
        if self.stand_of(rank.seat).is_none() {
            return;
        }
        self.learn_sizes(rank);
        for change in changes {
            self.change(rank.seat, *change);
        }
    }

    /// Empties a rank at once.
    pub fn clear(&mut self, rank: &mut Rank, standing: Standing) {
        let Some(endpoint) = self.stand_of(rank.seat).map(|stand| stand.endpoint) else {
            return;
        };
        let fresh = self.sit(endpoint, standing);
        self.close(rank);
        rank.seat = fresh;
    }

    /// Ends a rank at once. Whatever is done with it afterwards means nothing.
    pub fn close(&mut self, rank: &mut Rank) {
        let rank = std::mem::replace(rank, Rank::new(Seat::NOWHERE));
        let seat = rank.seat;
        let Some(Stand {
            endpoint, sizes, ..
        }) = self.seats.get_mut(seat.0 as usize).and_then(Option::take)
        else {
            return;
        };
        for size in sizes {
            if let Some(seats) = self.sizes.get_mut(&size) {
                *seats -= 1;
            }
        }
        self.sizes.retain(|_, seats| *seats > 0);
        self.roster.retain(|place| *place != (endpoint, seat));
        self.leftovers.push_back((seat, rank.into_rest()));
    }

    /// Sweeps away at most so many blocks of ranks that were cleared or closed. Answers whether some are left.
    pub fn sweep(&mut self, blocks: usize) -> bool {
        let Some((seat, mut rest)) = self.leftovers.pop_front() else {
            return false;
        };
        let mut budget = blocks;
        loop {
            if budget == 0 {
                self.leftovers.push_front((seat, rest));
                return true;
            }
            let Some(change) = rest.next() else { break };
            self.change(seat, change);
            budget -= 1;
        }
        self.free.push(seat);
        !self.leftovers.is_empty()
    }

    /// How much of this prompt each endpoint has cached that is known at all. One whose ranks all stand whole is among them
    /// even when it has nothing: that is known too. Of an endpoint's ranks the best counts.
    ///
    /// The last token is never cached for a request: engines compute at least one, to have something to sample from, and as
    /// they compute whole blocks, a prompt that is cached to its end costs its last block.
    #[must_use]
    pub fn hits(&self, tokens: &[u32], identity: &Identity) -> Vec<Hit> {
        let mut best = vec![Cached::default(); self.seats.len()];
        for size in self.sizes.keys() {
            for reach in self.reach(tokens, *size, identity) {
                let cached = reach.cached(*size);
                let best = &mut best[reach.seat.0 as usize];
                if cached.worth() > best.worth() {
                    *best = cached;
                }
            }
        }
        let mut hits = Vec::with_capacity(self.roster.len());
        for ranks in self.roster.chunk_by(|one, other| one.0 == other.0) {
            let (mut cached, mut is_whole) = (Cached::default(), true);
            for (_, seat) in ranks {
                let here = best[seat.0 as usize];
                if here.worth() > cached.worth() {
                    cached = here;
                }
                is_whole &= self.standing(*seat) == Standing::Whole;
            }
            if is_whole || cached != Cached::default() {
                hits.push(Hit {
                    endpoint: ranks[0].0,
                    cached,
                    source: Source::Events,
                    at_least: !is_whole,
                });
            }
        }
        hits
    }

    /// How many ranks stand so.
    #[must_use]
    pub fn standing_so(&self, standing: Standing) -> usize {
        self.seats
            .iter()
            .flatten()
            .filter(|stand| stand.standing == standing)
            .count()
    }

    /// Different blocks that anybody holds.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// About how many bytes the index takes, without its ranks.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.blocks.bytes() + self.sets.bytes() + self.seats.capacity() * size_of::<Option<Stand>>()
    }

    fn reach(&self, tokens: &[u32], size: u32, identity: &Identity) -> Vec<Reach> {
        let adapter = identity
            .adapter
            .as_deref()
            .map_or(Adapter::None, Adapter::Name);
        let salt = identity
            .salt
            .as_deref()
            .map(Extras::salt)
            .unwrap_or_default();
        let usable = tokens.len().saturating_sub(1) / size as usize;
        let mut block = root(size, adapter);
        let mut extras = salt;
        let chain = tokens
            .chunks_exact(size as usize)
            .take(usable)
            .map(|tokens| {
                block = link(block, std::mem::take(&mut extras).apply(content(tokens)));
                block
            });
        walk(chain, &self.blocks, &self.sets, |seat| {
            self.standing(seat) != Standing::Dark
        })
    }

    fn change(&mut self, seat: Seat, change: Change) {
        let before = self.blocks.get(change.block());
        match self.sets.change(before, seat, change.tiers()) {
            Some(after) if Some(after) == before => {}
            Some(after) => {
                self.blocks.insert(change.block(), after);
            }
            None => {
                self.blocks.remove(change.block());
            }
        }
    }

    fn sit(&mut self, endpoint: EndpointId, standing: Standing) -> Seat {
        let stand = Some(Stand {
            endpoint,
            standing,
            sizes: SmallVec::new(),
        });
        let seat = match self.free.pop() {
            Some(seat) => {
                self.seats[seat.0 as usize] = stand;
                seat
            }
            None => {
                debug_assert!(
                    self.seats.len() < Holder::SEATS as usize,
                    "a seat for every rank of every endpoint"
                );
                self.seats.push(stand);
                Seat(self.seats.len() as u32 - 1)
            }
        };
        let at = self
            .roster
            .partition_point(|place| *place < (endpoint, seat));
        self.roster.insert(at, (endpoint, seat));
        seat
    }

    fn stand_of(&mut self, seat: Seat) -> Option<&mut Stand> {
        self.seats.get_mut(seat.0 as usize)?.as_mut()
    }

    fn standing(&self, seat: Seat) -> Standing {
        let stand = self.seats.get(seat.0 as usize).and_then(Option::as_ref);
        stand.map_or(Standing::Dark, |stand| stand.standing)
    }

    fn learn_sizes(&mut self, rank: &Rank) {
        let Some(Some(stand)) = self.seats.get_mut(rank.seat.0 as usize) else {
            return;
        };
        for size in &rank.sizes[stand.sizes.len().min(rank.sizes.len())..] {
            stand.sizes.push(*size);
            *self.sizes.entry(*size).or_default() += 1;
        }
    }
}

// === Seat ===

impl Seat {
    /// Of a rank that was closed.
    const NOWHERE: Self = Self(u32::MAX);
}

// === Reach ===

impl Reach {
    /// In tokens.
    fn cached(self, block_tokens: u32) -> Cached {
        let Self {
            seat: _,
            gpu,
            host,
            disk,
        } = self;
        let tokens = |blocks: u32| blocks.saturating_mul(block_tokens);
        Cached {
            gpu: tokens(gpu),
            host: tokens(host),
            disk: tokens(disk),
        }
    }
}

#[cfg(test)]
mod tests;
