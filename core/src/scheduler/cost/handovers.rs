//! Which decode endpoint takes a prompt over best from each endpoint that could compute it, without
//! a look at each pair.
//!
//! ```text
//!   decode endpoints, once each ─▶ the two best of each group, ─▶ for each prefill endpoint: the best of its node,
//!                                  of each zone, of each node     of its zone elsewhere, of its group elsewhere
//! ```
//!
//! What a takeover costs depends on the decode endpoint, and on its [distance](Distance), of which
//! there are three. So each decode endpoint is weighed for three distances at most, and each prefill
//! endpoint compares three that are best: P + D in all. Two are kept, in different places: the best
//! one outside of the own place is one of them.

use std::cmp::Ordering;

use smallvec::SmallVec;

use crate::pick::{Distance, PairSite, SharedPlaces};

/// That a decode endpoint takes a prompt over, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::scheduler) struct Handover {
    /// From the end of the prefill to the first token.
    pub(in crate::scheduler) transfer: f64,
    /// What it costs that the answer is generated there.
    pub(in crate::scheduler) answer: f64,
}

/// A handover to a decode endpoint that is up, as it compares with others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::scheduler) struct RankedHandover {
    /// Its memory does not take the prompt without preempting others.
    pub(in crate::scheduler) is_full: bool,
    pub(in crate::scheduler) handover: Handover,
    /// Answers that it generates, less by the [handicap](Distance::handicap) of those that are
    /// farther: decides between equals.
    pub(in crate::scheduler) batch: f32,
}

/// The best handovers of one prompt; see the module.
#[derive(Clone, Debug, Default)]
pub(in crate::scheduler) struct Handovers {
    groups: SmallVec<[BestTwo; 2]>,
    zones: Vec<BestTwo>,
    nodes: Vec<BestTwo>,
}

/// The best handover of all in one place, and the best of those that are in another part of it.
#[derive(Clone, Copy, Debug, Default)]
struct BestTwo([Option<(u32, RankedHandover)>; 2]);

// === Handover ===

impl Handover {
    /// No decode endpoint of the group is up.
    pub(in crate::scheduler) const IMPOSSIBLE: Self = Self {
        transfer: f64::INFINITY,
        answer: 0.0,
    };

    /// In all.
    pub(in crate::scheduler) fn cost(&self) -> f64 {
        self.transfer + self.answer
    }
}

// === RankedHandover ===

impl RankedHandover {
    /// The better one is the less.
    pub(in crate::scheduler) fn compare(&self, other: &Self) -> Ordering {
        let full = self.is_full.cmp(&other.is_full);
        let cost = || self.handover.cost().total_cmp(&other.handover.cost());
        full.then_with(cost)
            .then_with(|| self.batch.total_cmp(&other.batch))
    }

    fn is_better(&self, other: &Self) -> bool {
        self.compare(other) == Ordering::Less
    }
}

// === Handovers ===

impl Handovers {
    /// Of the decode endpoints at these positions that are up, each with its site; `weigh` says how
    /// one takes the prompt over from a distance.
    pub(in crate::scheduler) fn of(
        groups: usize,
        shared: SharedPlaces,
        decodes: impl Iterator<Item = (usize, PairSite)>,
        mut weigh: impl FnMut(usize, Distance) -> RankedHandover,
    ) -> Self {
        let mut best = Self {
            groups: SmallVec::from_elem(BestTwo::default(), groups),
            zones: vec![BestTwo::default(); shared.zones],
            nodes: vec![BestTwo::default(); shared.nodes],
        };
        for (position, site) in decodes {
            let elsewhere = weigh(position, Distance::Elsewhere);
            best.groups[site.group as usize].offer(site.place.zone, elsewhere);
            if let Some(zone) = site.zone {
                let in_zone = weigh(position, Distance::SameZone);
                best.zones[zone as usize].offer(site.place.node, in_zone);
            }
            if let Some(node) = site.node {
                let in_node = weigh(position, Distance::SameNode);
                best.nodes[node as usize].offer(position as u32, in_node);
            }
        }
        best
    }

    /// The best one from the endpoint at this position and site, to another.
    pub(in crate::scheduler) fn from(&self, position: usize, site: PairSite) -> Option<Handover> {
        let node = site.node.map(|node| &self.nodes[node as usize]);
        let zone = site.zone.map(|zone| &self.zones[zone as usize]);
        let group = &self.groups[site.group as usize];
        let nearest_first = [
            node.and_then(|node| node.other_than(position as u32)),
            zone.and_then(|zone| zone.other_than(site.place.node)),
            group.other_than(site.place.zone),
        ];
        let found = nearest_first.into_iter().flatten();
        let best = found.reduce(|best, other| if other.is_better(best) { other } else { best });
        best.map(|best| best.handover)
    }
}

// === BestTwo ===

impl BestTwo {
    /// One more, in this part of the place.
    fn offer(&mut self, part: u32, offered: RankedHandover) {
        let Self([first, second]) = self;
        let new = Some((part, offered));
        match first {
            Some((known, best)) if *known == part => {
                if offered.is_better(best) {
                    *first = new;
                }
            }
            Some((_, best)) if !offered.is_better(best) => {
                if second.is_none_or(|(_, best)| offered.is_better(&best)) {
                    *second = new;
                }
            }
            _ => {
                *second = first.take();
                *first = new;
            }
        }
    }

    /// The best one that is not in this part.
    fn other_than(&self, part: u32) -> Option<&RankedHandover> {
        let mut best = self.0.iter().flatten();
        let other = best.find(|(known, _)| *known != part);
        other.map(|(_, ranked)| ranked)
    }
}

#[cfg(test)]
mod tests;
