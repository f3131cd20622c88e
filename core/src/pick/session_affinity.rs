//! The same session to the same endpoint while that is not overloaded.
//!
//! Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016): from the session's
//! place on the ring, the first endpoint with room. Room is `ceil(load_factor × (requests in flight
//! + 1) / endpoints in service)`.

use smallvec::SmallVec;

use super::{Candidates, MAX_RANKED, PickRanking, power_of_two, weighed::ScoredCandidate};
use crate::{hash::hash_mix, load::Load, policy::SessionAffinity, rng::SeededRng};

/// Different endpoints looked at along the ring.
const LOOKS: usize = 16;

pub(super) fn rank<L: Fn(usize) -> Load>(
    field: &Candidates<'_, L>,
    affinity: &SessionAffinity,
    rng: &mut SeededRng,
    ranking: &mut PickRanking,
) {
    let Some(session) = field.ask.query.session else {
        return power_of_two::rank(field, rng, ranking);
    };
    let (looks, in_service) = look(field, session);
    if looks.is_empty() {
        return power_of_two::rank(field, rng, ranking);
    }
    let room = room(field, affinity, in_service);
    let has_room = |candidate: &&ScoredCandidate| f64::from(candidate.load.in_flight) < room;
    let (free, full) = (
        looks.iter().filter(has_room),
        looks.iter().filter(|candidate| !has_room(candidate)),
    );
    // If all are full then the figures are odd, or everyone else is down: the session's own
    // endpoint it is.
    ranking.ranked.extend(
        free.chain(full)
            .map(|candidate| candidate.position)
            .take(MAX_RANKED),
    );
    ranking.weighed.extend(looks);
}

/// The next endpoints on the ring that may be chosen, and how many members are in service, as far
/// as that shows.
fn look<L: Fn(usize) -> Load>(
    field: &Candidates<'_, L>,
    session: u64,
) -> (SmallVec<[ScoredCandidate; LOOKS]>, f64) {
    let mut seen: SmallVec<[usize; LOOKS]> = SmallVec::new();
    let mut looks = SmallVec::new();
    let enough = field.members.len().min(LOOKS);
    for position in field.members.ring(field.pool).walk(session) {
        if seen.contains(&position) {
            continue;
        }
        seen.push(position);
        // Not at random: a session that went back to an endpoint that warms up has to stay there.
        let draw = || {
            (hash_mix(session, field.pool.endpoints[position].id.0) >> 40) as f32
                / (1u32 << 24) as f32
        };
        looks.extend(
            field
                .admitted(position, draw)
                .map(|load| ScoredCandidate::new(position, load, 0).by_requests()),
        );
        if seen.len() == enough {
            break;
        }
    }
    let in_service = field.members.len() as f64 * looks.len() as f64 / seen.len() as f64;
    (looks, in_service)
}

/// Requests that an endpoint may have in flight, this one included.
fn room<L: Fn(usize) -> Load>(
    field: &Candidates<'_, L>,
    affinity: &SessionAffinity,
    in_service: f64,
) -> f64 {
    let count = || {
        field
            .members
            .from(0)
            .map(|position| u64::from((field.load)(position).in_flight))
            .sum()
    };
    let total: u64 = field.ask.total_in_flight.unwrap_or_else(count);
    (f64::from(affinity.load_factor) * (total as f64 + 1.0) / in_service).ceil()
}
