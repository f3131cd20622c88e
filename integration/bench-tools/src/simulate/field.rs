//! Which policies run on which fleets, and what a comparison of several fleets says.

use super::policies::{POLICIES, Policy, UsableServers};
use super::race::Entrant;
use super::roles::FleetRoles;
use crate::report::{HighestLoad, Row};

/// All entrants of a comparison.
#[derive(Debug)]
pub(super) struct Field {
    /// Each policy on each fleet that it can use, policy by policy.
    pub(super) entrants: Vec<Entrant>,
    /// Policies that can use none of the fleets.
    skipped: Vec<&'static str>,
    /// Whether there is more than one fleet.
    has_splits: bool,
}

/// None of the policies can use any of the servers.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{policies} cannot use {fleet}: --servers gives servers that serve whole requests, --prefill and --decode pairs"
)]
pub struct UselessServers {
    policies: String,
    fleet: String,
}

impl Field {
    /// These policies, or all if none is named, on this fleet, or on every split of its servers.
    ///
    /// # Errors
    /// No policy can use any of the fleets.
    pub(super) fn of(
        named: &[Policy],
        roles: FleetRoles,
        has_splits: bool,
    ) -> Result<Self, UselessServers> {
        let fleets = if has_splits {
            FleetRoles::splits(roles.servers())
        } else {
            vec![roles]
        };
        let policies = if named.is_empty() { POLICIES } else { named };
        let (mut entrants, mut skipped) = (Vec::new(), Vec::new());
        for &policy in policies {
            let usable = fleets.iter().filter(|roles| policy.serves(**roles));
            let before = entrants.len();
            entrants.extend(usable.map(|&roles| Entrant { policy, roles }));
            // A rule for pairs is no part of a comparison without pairs, unless it is named.
            let is_asked_for = !named.is_empty() || policy.servers != UsableServers::Pairs;
            if entrants.len() == before && is_asked_for {
                skipped.push(policy.name);
            }
        }
        if entrants.is_empty() {
            return Err(UselessServers {
                policies: skipped.join(", "),
                fleet: roles.to_string(),
            });
        }
        Ok(Self {
            entrants,
            skipped,
            has_splits,
        })
    }

    /// Adds the fleets to the rows of the entrants, if there are several.
    pub(super) fn name_fleets(&self, rows: &mut [Row]) {
        for (row, entrant) in rows.iter_mut().zip(&self.entrants) {
            row.fleet = self.has_splits.then(|| entrant.roles.to_string());
        }
    }

    /// What there is to say beside the rows: who was left out, and which split is the best.
    pub(super) fn facts(&self, rows: &[Row]) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        if !self.skipped.is_empty() {
            let names = self.skipped.join(" and ");
            facts.push(("skipped", format!("{names}, for want of usable servers")));
        }
        if self.has_splits {
            let best = rows.chunk_by(|one, other| one.policy == other.policy);
            let best = best.filter_map(best_fleet);
            let best: Vec<String> = best
                .map(|row| {
                    format!(
                        "{} under {}",
                        row.fleet.as_deref().unwrap_or(""),
                        row.policy
                    )
                })
                .collect();
            facts.push(("best split", best.join(", ")));
        }
        facts
    }
}

/// The row with the highest load; where none was searched for, the one with the most goodput, and the
/// shortest time to first token among equals.
fn best_fleet(rows: &[Row]) -> Option<&Row> {
    let merit = |row: &Row| {
        let load = row.load.and_then(|HighestLoad(load)| load);
        let share = row.outcome.goodput.share;
        [load.unwrap_or(0.0), share, -row.outcome.ttft.mean]
    };
    let greater = |best: &'_ &Row, row: &Row| {
        let (best, row) = (merit(best), merit(row));
        let order = row.iter().zip(&best).map(|(row, best)| row.total_cmp(best));
        order.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    };
    let (first, others) = rows.split_first()?;
    let better = |best, row| {
        if greater(&best, row).is_gt() {
            row
        } else {
            best
        }
    };
    Some(others.iter().fold(first, better))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Goodput, Objectives, Outcome};

    const PAIRS: FleetRoles = FleetRoles {
        aggregated: 0,
        does_both: false,
        prefill: 2,
        decode: 1,
    };

    fn named(names: &[&str]) -> Vec<Policy> {
        let policies = names.iter().filter_map(|name| Policy::named(name));
        policies.collect()
    }

    #[test]
    fn policies_that_cannot_use_the_servers_are_left_out_and_said_so() {
        let field = Field::of(&named(&["gie", "kv-aware"]), PAIRS, false).unwrap();
        assert_eq!(field.entrants.len(), 1);
        let facts = field.facts(&[]);
        assert_eq!(
            facts,
            [("skipped", "gie, for want of usable servers".to_owned())]
        );
        let error = Field::of(&named(&["gie"]), PAIRS, false).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("gie cannot use 2:1: --servers gives")
        );
    }

    #[test]
    fn rules_for_pairs_are_no_part_of_a_comparison_without_pairs() {
        let field = Field::of(&[], FleetRoles::aggregated(2), false).unwrap();
        let pairs = POLICIES
            .iter()
            .filter(|policy| policy.servers == UsableServers::Pairs);
        assert_eq!(field.entrants.len() + pairs.count(), POLICIES.len());
        assert!(field.facts(&[]).is_empty());
    }

    #[test]
    fn the_best_split_has_the_highest_load_or_else_the_most_goodput() {
        let field = Field::of(&named(&["kv-aware"]), FleetRoles::aggregated(3), true).unwrap();
        let row = |share, load| Row {
            load,
            ..Row::new("kv-aware", outcome(share))
        };
        let best = |mut rows: [Row; 3]| {
            field.name_fleets(&mut rows);
            field.facts(&rows).remove(0).1
        };
        let at_load = [0.5, 0.7, 0.6].map(|share| row(share, None));
        assert_eq!(best(at_load), "1:2 under kv-aware");
        let searched = [(0.96, Some(2.0)), (0.9, None), (0.95, Some(3.0))];
        let searched = searched.map(|(share, load)| row(share, Some(HighestLoad(load))));
        assert_eq!(best(searched), "2:1 under kv-aware");
    }

    fn outcome(share: f64) -> Outcome {
        let goodput = Goodput {
            per_second: 0.0,
            share,
        };
        Outcome {
            goodput,
            ..Outcome::new(Vec::new(), 1, Objectives::default())
        }
    }
}
