//! The best of each node, zone and group is the best of all pairs.

use std::cell::Cell;

use proptest::prelude::*;

use super::*;
use crate::pick::Place;

/// An endpoint of a pool: its group, zone and node, and which halves of a pair it can be.
#[derive(Clone, Copy, Debug)]
struct Peer {
    group: u32,
    place: Place,
    computes: bool,
    generates: bool,
    is_full: bool,
    /// What a takeover costs there by distance, and its batch.
    costs: [u8; 3],
    batch: u8,
}

fn peer() -> impl Strategy<Value = Peer> {
    let halves = prop_oneof![Just((true, false)), Just((false, true)), Just((true, true))];
    let place = (0..3u32, 0..3u32);
    let terms = (any::<bool>(), [0..5u8, 0..5, 0..5], 0..3u8);
    (0..2u32, place, halves, terms).prop_map(
        |(group, (zone, node), (computes, generates), (is_full, costs, batch))| Peer {
            group,
            place: Place {
                zone,
                node: zone * 3 + node,
            },
            computes,
            generates,
            is_full,
            costs,
            batch,
        },
    )
}

fn weigh(peer: &Peer, distance: Distance) -> RankedHandover {
    RankedHandover {
        is_full: peer.is_full,
        handover: Handover {
            transfer: peer.costs[distance as usize].into(),
            answer: 1.0,
        },
        batch: f32::from(peer.batch) - distance.handicap(),
    }
}

/// The best of all pairs from one endpoint, to another.
fn best_pair(peers: &[Peer], from: usize) -> Option<RankedHandover> {
    let prefill = peers[from];
    let others = peers
        .iter()
        .enumerate()
        .filter(|&(at, other)| at != from && other.generates && other.group == prefill.group);
    let ranked = others.map(|(_, other)| weigh(other, prefill.place.distance(other.place)));
    ranked.min_by(RankedHandover::compare)
}

/// Numbers for the nodes or zones that both sides of a group share.
fn shared(peers: &[Peer], place: impl Fn(&Peer) -> u32) -> Vec<(u32, u32)> {
    let is_in = |peer: &Peer, key: (u32, u32)| (peer.group, place(peer)) == key;
    let keys = (0..2).flat_map(|group| (0..9).map(move |place| (group, place)));
    keys.filter(|&key| {
        let mut computes = peers.iter().filter(|peer| peer.computes);
        let mut generates = peers.iter().filter(|peer| peer.generates);
        computes.any(|peer| is_in(peer, key)) && generates.any(|peer| is_in(peer, key))
    })
    .collect()
}

fn sites(peers: &[Peer]) -> (Vec<PairSite>, SharedPlaces) {
    let zones = shared(peers, |peer| peer.place.zone);
    let nodes = shared(peers, |peer| peer.place.node);
    let number = |known: &[(u32, u32)], key| {
        let at = known.iter().position(|&other| other == key)?;
        Some(at as u32)
    };
    let site = |peer: &Peer| PairSite {
        group: peer.group,
        computes: peer.computes,
        takes_over: peer.generates,
        place: peer.place,
        zone: number(&zones, (peer.group, peer.place.zone)),
        node: number(&nodes, (peer.group, peer.place.node)),
    };
    let shared = SharedPlaces {
        zones: zones.len(),
        nodes: nodes.len(),
    };
    (peers.iter().map(site).collect(), shared)
}

proptest! {
    #[test]
    fn the_best_of_all_pairs_is_found_with_three_looks_at_each_decode_endpoint(
        peers in proptest::collection::vec(peer(), 0..14),
    ) {
        let (sites, shared) = sites(&peers);
        let decodes = (0..peers.len()).filter(|&at| peers[at].generates);
        let looks = Cell::new(0);
        let handovers = Handovers::of(
            2,
            shared,
            decodes.clone().map(|at| (at, sites[at])),
            |at, distance| {
                looks.set(looks.get() + 1);
                weigh(&peers[at], distance)
            },
        );
        prop_assert!(looks.get() <= 3 * decodes.count());
        for from in (0..peers.len()).filter(|&at| peers[at].computes) {
            let found = handovers.from(from, sites[from]);
            let best = best_pair(&peers, from);
            prop_assert_eq!(found, best.map(|best| best.handover), "from {}", from);
        }
    }
}
