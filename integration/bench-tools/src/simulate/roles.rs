//! What the servers of a fleet do, and how they are numbered: aggregated ones first, then those
//! that compute prompts, then those that generate answers.

use std::fmt;
use std::ops::Range;

use hermes_core::snapshot::Role;

/// How many servers of each role a fleet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FleetRoles {
    /// They serve whole requests, and either leg of a request that is split.
    pub aggregated: usize,
    /// Whether these may be made pairs of among themselves.
    pub does_both: bool,
    /// They compute prompts for others.
    pub prefill: usize,
    /// They generate answers from prompts of others, or serve whole requests.
    pub decode: usize,
}

impl FleetRoles {
    /// A fleet without pairs.
    #[must_use]
    pub const fn aggregated(servers: usize) -> Self {
        Self {
            aggregated: servers,
            does_both: false,
            prefill: 0,
            decode: 0,
        }
    }

    /// Every way to use this number of servers: all aggregated, then `1:N-1` to `N-1:1`.
    #[must_use]
    pub fn splits(servers: usize) -> Vec<Self> {
        let split = |prefill| Self {
            aggregated: 0,
            does_both: false,
            prefill,
            decode: servers - prefill,
        };
        let pairs = (1..servers).map(split);
        std::iter::once(Self::aggregated(servers))
            .chain(pairs)
            .collect()
    }

    /// How many servers there are.
    #[must_use]
    pub const fn servers(&self) -> usize {
        self.aggregated + self.prefill + self.decode
    }

    /// Whether there are servers of both sides of a pair.
    #[must_use]
    pub const fn has_pairs(&self) -> bool {
        self.prefill > 0 && self.decode > 0
    }

    /// Whether a request may be split: between servers of both sides, or between those that do both.
    #[must_use]
    pub const fn may_split(&self) -> bool {
        self.has_pairs() || (self.does_both && self.servers() > 1)
    }

    /// Servers that serve whole requests, and may serve either leg.
    #[must_use]
    pub const fn aggregates(&self) -> Range<usize> {
        0..self.aggregated
    }

    /// Servers that compute prompts for others.
    #[must_use]
    pub const fn prefills(&self) -> Range<usize> {
        self.aggregated..self.aggregated + self.prefill
    }

    /// Servers that generate from prompts of others.
    #[must_use]
    pub const fn decodes(&self) -> Range<usize> {
        self.aggregated + self.prefill..self.servers()
    }

    /// Servers at which a request may begin: those that serve it whole, and those that compute its
    /// prompt.
    #[must_use]
    pub const fn firsts(&self) -> Range<usize> {
        0..self.aggregated + self.prefill
    }

    /// What a server does.
    #[must_use]
    pub fn role(&self, server: usize) -> Role {
        if server < self.aggregated && self.does_both {
            Role::Both
        } else if server < self.aggregated {
            Role::Aggregate
        } else if self.prefills().contains(&server) {
            Role::Prefill
        } else {
            Role::Decode
        }
    }
}

/// `8` without pairs, `5:3` with pairs alone, `2+5:3` with both.
impl fmt::Display for FleetRoles {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            aggregated,
            does_both,
            prefill,
            decode,
        } = self;
        let both = if *does_both { " that do both" } else { "" };
        match (aggregated, prefill + decode) {
            (_, 0) => write!(out, "{aggregated}{both}"),
            (0, _) => write!(out, "{prefill}:{decode}"),
            _ => write!(out, "{aggregated}{both}+{prefill}:{decode}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_split_in_every_way() {
        let splits: Vec<String> = FleetRoles::splits(4)
            .iter()
            .map(FleetRoles::to_string)
            .collect();
        assert_eq!(splits, ["4", "1:3", "2:2", "3:1"]);
        let mixed = FleetRoles {
            aggregated: 1,
            does_both: false,
            prefill: 2,
            decode: 1,
        };
        assert_eq!(mixed.to_string(), "1+2:1");
    }
}
