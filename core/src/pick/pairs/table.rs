//! The pairs of a pool: groups of endpoints that may be paired with each other, and who may serve a
//! request that is split.

use std::{collections::HashMap, sync::Arc};

use super::serves_alone;
use crate::{
    pick::EligibleSetId,
    snapshot::{Endpoint, Pool, Role},
};

/// The pairs of a pool, built whenever it changes.
#[derive(Debug)]
pub(in crate::pick) struct PairTable {
    pub(super) groups: Vec<PairGroup>,
    /// The group of each endpoint, by position; `None` for those without a partner.
    pub(super) of: Vec<Option<u32>>,
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
        let mut of = vec![None; pool.endpoints.len()];
        for (index, group) in groups.iter().enumerate() {
            for &position in group.prefills.iter().chain(&group.decodes) {
                of[position as usize] = Some(index as u32);
            }
        }
        let none = SplitSets {
            first: EligibleSetId::EVERYONE,
            compared: EligibleSetId::EVERYONE,
            decodes: EligibleSetId::EVERYONE,
        };
        Some(Self {
            groups,
            of,
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
            .filter(|&position| self.of[position].is_some());
        let decodes: Vec<usize> = paired.clone().filter(is(Role::Decode)).collect();
        let mut has_decode = vec![false; self.groups.len()];
        for group in decodes.iter().filter_map(|&position| self.of[position]) {
            has_decode[group as usize] = true;
        }
        let has_partner =
            |position: &usize| self.of[*position].is_some_and(|group| has_decode[group as usize]);
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

    pub(super) fn group(&self, position: usize) -> Option<&PairGroup> {
        Some(&self.groups[self.of[position]? as usize])
    }
}
