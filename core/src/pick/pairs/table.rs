//! The pairs of a pool: groups of endpoints that may be paired with each other, and who may serve a
//! request that is split.

use std::{collections::HashMap, sync::Arc};

use smallvec::SmallVec;

use super::{place::Place, serves_alone};
use crate::{
    pick::EligibleSetId,
    policy::PairDialect,
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
    /// Some endpoint only computes prompts for others.
    pub(super) has_prefills: bool,
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
    /// Whether it computes prompts for others.
    pub(crate) computes: bool,
    /// Whether it takes over what others compute.
    pub(crate) takes_over: bool,
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

/// How many endpoints of each group take over what others compute.
pub(super) struct PartnerCounts(Vec<u32>);

/// Positions of a [`SplitSets`], in ascending order.
pub(in crate::pick) type SplitPositions = [Vec<usize>; 3];

impl PairGroup {
    /// Its only endpoint is both halves, and has no partner.
    fn is_one_endpoint(&self) -> bool {
        self.prefills.len() == 1 && self.prefills == self.decodes
    }
}

impl PartnerCounts {
    /// Whether an endpoint with this site, which is one of those that are counted if it takes over,
    /// computes prompts for another one.
    pub(super) fn exist_for(&self, site: Option<PairSite>) -> bool {
        site.is_some_and(|site| {
            let Self(counts) = self;
            site.computes && counts[site.group as usize] > u32::from(site.takes_over)
        })
    }
}

impl PairTable {
    /// The pairs of a pool, without sets; `None` if its requests are not split.
    pub(in crate::pick) fn of(pool: &Pool) -> Option<Self> {
        let rules = pool.spec.policy.disaggregation.as_ref()?;
        let mut groups: HashMap<PairKey, PairGroup> = HashMap::new();
        for (position, endpoint) in pool.endpoints.iter().enumerate() {
            let (computes, takes_over) = halves(endpoint, rules.dialect);
            if !computes && !takes_over {
                continue;
            }
            let key = (endpoint.group.clone(), endpoint.pairing.version.clone());
            let group = groups.entry(key).or_default();
            group.prefills.extend(computes.then_some(position as u32));
            group.decodes.extend(takes_over.then_some(position as u32));
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
                && !group.is_one_endpoint()
                && (!rules.dialect.needs_leader() || !group.leaders.is_empty())
        };
        let groups: Vec<PairGroup> = groups.into_values().filter(is_usable).collect();
        let places = Place::of(pool);
        let (sites, shared) = sites(&groups, &places);
        let only_computes = |site: &PairSite| site.computes && !site.takes_over;
        let has_prefills = sites.iter().flatten().any(only_computes);
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
            has_prefills,
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
        let takes_over =
            |position: &usize| self.sites[*position].is_some_and(|site| site.takes_over);
        let decodes: Vec<usize> = holders.clone().filter(takes_over).collect();
        let partners = self.partners(decodes.iter().copied());
        let has_partner = |position: usize| partners.exist_for(self.sites[position]);
        if !holders.clone().any(has_partner) {
            return SplitPositions::default();
        }
        let may_be_first = |position: &usize| match pool.endpoints[*position].role {
            Role::Aggregate | Role::Both => true,
            Role::Prefill => has_partner(*position),
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

    /// How many of these endpoints, which take over what others compute, each group has.
    pub(super) fn partners(&self, decodes: impl Iterator<Item = usize>) -> PartnerCounts {
        let mut counts = vec![0; self.groups.len()];
        for group in decodes.filter_map(|position| self.group_of(position)) {
            counts[group] += 1;
        }
        PartnerCounts(counts)
    }

    /// The index of an endpoint's group.
    pub(super) fn group_of(&self, position: usize) -> Option<usize> {
        Some(self.sites[position]?.group as usize)
    }

    pub(super) fn group(&self, position: usize) -> Option<&PairGroup> {
        Some(&self.groups[self.group_of(position)?])
    }
}

/// Whether an endpoint computes prompts for others, and whether it takes over what others compute.
fn halves(endpoint: &Endpoint, dialect: PairDialect) -> (bool, bool) {
    match endpoint.role {
        // Until more is known of it, it is no partner.
        Role::Prefill => (endpoint.pairing.suffice(dialect), false),
        Role::Decode => (false, true),
        Role::Both => {
            let is_either = dialect.has_engines_for_both();
            (is_either && endpoint.pairing.suffice(dialect), is_either)
        }
        Role::Aggregate | Role::Leader => (false, false),
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
                computes: group.prefills.binary_search(&position).is_ok(),
                takes_over: group.decodes.binary_search(&position).is_ok(),
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

/// The places where two endpoints of a group may be a pair, with numbers from `next` on.
fn shared(group: &PairGroup, next: &mut u32, place: impl Fn(usize) -> u32) -> HashMap<u32, u32> {
    let mut prefills: HashMap<u32, SmallVec<[u32; 2]>> = HashMap::new();
    for &position in &group.prefills {
        let there = prefills.entry(place(position as usize)).or_default();
        if there.len() < 2 {
            there.push(position);
        }
    }
    let mut numbers = HashMap::new();
    for &position in &group.decodes {
        let place = place(position as usize);
        let there = prefills.get(&place);
        // One that does both is no partner of itself.
        if there.is_some_and(|there| there.iter().any(|&prefill| prefill != position)) {
            numbers.entry(place).or_insert_with(|| {
                *next += 1;
                *next - 1
            });
        }
    }
    numbers
}
