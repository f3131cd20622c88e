//! The pairs of a pool: groups of endpoints that may be paired with each other, and who may serve a
//! request that is split.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{place::Place, serves_alone};
use crate::{
    pick::EligibleSetId,
    snapshot::{Endpoint, Pool, Role},
};

/// The pairs of a pool, built whenever it changes.
#[derive(Debug)]
pub(in crate::pick) struct PairTable {
    pub(super) groups: Vec<PairGroup>,
    /// Of each endpoint, by position; `None` for those without a partner.
    pub(super) sites: Vec<Option<PairSite>>,
    /// Where each endpoint runs, by position.
    pub(super) places: Vec<Place>,
    /// The number of nodes and of zones that are shared by both sides of a group.
    pub(super) shared: SharedPlaces,
    /// The sets of split requests that name no model, or one that every endpoint holds.
    pub(super) everyone: SplitSets,
    /// Those of each model, by its position in the pool's models.
    pub(super) models: Vec<SplitSets>,
}

/// Endpoints that may be paired with each other.
#[derive(Debug, Default)]
pub(super) struct PairGroup {
    pub(super) prefills: Vec<u32>,
    pub(super) decodes: Vec<u32>,
    /// In front of this group.
    pub(super) leaders: Vec<u32>,
}

/// Where an endpoint is among those that it may be paired with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PairSite {
    /// Its group.
    pub(crate) group: u32,
    pub(crate) place: Place,
    /// The number of its group and its zone, if both sides of the group are there.
    pub(crate) zone: Option<u32>,
    /// The number of its group and its node, if both sides of the group are there.
    pub(crate) node: Option<u32>,
}

/// How many numbers a [`PairSite`] has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SharedPlaces {
    pub(crate) zones: usize,
    pub(crate) nodes: usize,
}

/// What the endpoints of a [`PairGroup`] have in common: the group's name, and their version.
type PairKey = (Option<Arc<str>>, Option<Arc<str>>);

/// Who may serve a request that may be split.
#[derive(Clone, Copy, Debug)]
pub(super) struct SplitSets {
    /// Aggregated endpoints, and prefill endpoints with a partner: who is sent a request first that
    /// is to be split. Empty if there are no pairs.
    pub(super) first: EligibleSetId,
    /// Those, and decode endpoints that serve alone: who is compared where what a pair costs is
    /// known.
    pub(super) compared: EligibleSetId,
    /// Decode endpoints.
    pub(super) decodes: EligibleSetId,
}

/// Positions of a [`SplitSets`], in ascending order.
pub(in crate::pick) type SplitPositions = [Vec<usize>; 3];

impl PairTable {
    /// The pairs of a pool, without sets; `None` if its requests are not split.
    pub(in crate::pick) fn of(pool: &Pool) -> Option<Self> {
        let rules = pool.spec.policy.disaggregation.as_ref()?;
        let mut groups: HashMap<PairKey, PairGroup> = HashMap::new();
        for (position, endpoint) in pool.endpoints.iter().enumerate() {
            let key = || (endpoint.group.clone(), endpoint.pairing.version.clone());
            match endpoint.role {
                // Until more is known of it, it is no partner.
                Role::Prefill if !endpoint.pairing.suffice(rules.dialect) => {}
                Role::Prefill => groups
                    .entry(key())
                    .or_default()
                    .prefills
                    .push(position as u32),
                Role::Decode => groups
                    .entry(key())
                    .or_default()
                    .decodes
                    .push(position as u32),
                Role::Aggregate | Role::Leader => {}
            }
        }
        for ((name, _), group) in &mut groups {
            let leads =
                |endpoint: &Endpoint| endpoint.role == Role::Leader && endpoint.group == *name;
            let leaders = pool.endpoints.iter().enumerate();
            let leaders = leaders.filter(|(_, endpoint)| leads(endpoint));
            group.leaders = leaders.map(|(position, _)| position as u32).collect();
        }
        let is_usable = |group: &PairGroup| {
            !group.prefills.is_empty()
                && !group.decodes.is_empty()
                && (!rules.dialect.needs_leader() || !group.leaders.is_empty())
        };
        let groups: Vec<PairGroup> = groups.into_values().filter(is_usable).collect();
        let places = Place::of(pool);
        let (sites, shared) = sites(&groups, &places);
        let none = SplitSets {
            first: EligibleSetId::EVERYONE,
            compared: EligibleSetId::EVERYONE,
            decodes: EligibleSetId::EVERYONE,
        };
        Some(Self {
            groups,
            sites,
            places,
            shared,
            everyone: none,
            models: Vec::new(),
        })
    }

    /// Who may serve a request that may be split and whose model these endpoints hold; all empty if
    /// no pair of them does.
    pub(in crate::pick) fn positions(
        &self,
        pool: &Pool,
        holders: impl Iterator<Item = usize> + Clone,
    ) -> SplitPositions {
        let is = |role| move |position: &usize| pool.endpoints[*position].role == role;
        let paired = holders
            .clone()
            .filter(|&position| self.sites[position].is_some());
        let decodes: Vec<usize> = paired.clone().filter(is(Role::Decode)).collect();
        let mut has_decode = vec![false; self.groups.len()];
        for group in decodes
            .iter()
            .filter_map(|&position| self.group_of(position))
        {
            has_decode[group] = true;
        }
        let has_partner = |position: &usize| {
            self.group_of(*position)
                .is_some_and(|group| has_decode[group])
        };
        if !paired
            .filter(is(Role::Prefill))
            .any(|prefill| has_partner(&prefill))
        {
            return SplitPositions::default();
        }
        let may_be_first = |position: &usize| match pool.endpoints[*position].role {
            Role::Aggregate => true,
            Role::Prefill => has_partner(position),
            Role::Decode | Role::Leader => false,
        };
        let may_serve = |position: &usize| may_be_first(position) || serves_alone(pool, *position);
        let first = holders.clone().filter(may_be_first).collect();
        [first, holders.filter(may_serve).collect(), decodes]
    }

    /// Sets the sets: the first three identities are those of everyone, and three of each `model`
    /// that has holders of its own follow.
    pub(in crate::pick) fn set_sets(
        &mut self,
        ids: &[EligibleSetId],
        has_own: impl Iterator<Item = bool>,
    ) {
        let mut sets = ids.chunks_exact(3).map(|sets| SplitSets {
            first: sets[0],
            compared: sets[1],
            decodes: sets[2],
        });
        self.everyone = sets.next().unwrap_or(self.everyone);
        let everyone = self.everyone;
        let mut of_model = |has_own| {
            let own = if has_own { sets.next() } else { None };
            own.unwrap_or(everyone)
        };
        self.models = has_own.map(&mut of_model).collect();
    }

    /// The index of an endpoint's group.
    pub(super) fn group_of(&self, position: usize) -> Option<usize> {
        Some(self.sites[position]?.group as usize)
    }

    pub(super) fn group(&self, position: usize) -> Option<&PairGroup> {
        Some(&self.groups[self.group_of(position)?])
    }
}

/// The site of each endpoint, by position.
fn sites(groups: &[PairGroup], places: &[Place]) -> (Vec<Option<PairSite>>, SharedPlaces) {
    let mut sites = vec![None; places.len()];
    let (mut zones, mut nodes) = (0, 0);
    for (index, group) in groups.iter().enumerate() {
        let shared_zones = shared(group, &mut zones, |position| places[position].zone);
        let shared_nodes = shared(group, &mut nodes, |position| places[position].node);
        for &position in group.prefills.iter().chain(&group.decodes) {
            let place = places[position as usize];
            sites[position as usize] = Some(PairSite {
                group: index as u32,
                place,
                zone: shared_zones.get(&place.zone).copied(),
                node: shared_nodes.get(&place.node).copied(),
            });
        }
    }
    let shared = SharedPlaces {
        zones: zones as usize,
        nodes: nodes as usize,
    };
    (sites, shared)
}

/// The places where both sides of a group are, with numbers from `next` on.
fn shared(group: &PairGroup, next: &mut u32, place: impl Fn(usize) -> u32) -> HashMap<u32, u32> {
    let prefills: HashSet<u32> = (group.prefills.iter())
        .map(|&position| place(position as usize))
        .collect();
    let mut numbers = HashMap::new();
    for &position in &group.decodes {
        let place = place(position as usize);
        if prefills.contains(&place) {
            numbers.entry(place).or_insert_with(|| {
                *next += 1;
                *next - 1
            });
        }
    }
    numbers
}
