//! The policies by name: the one list from which the command line, its help and its checks are
//! made.

mod choice;
mod dynamo;
mod gie;
mod inflight;
mod kv_aware;
mod least_request;
mod llm_d;
mod llm_d_pairs;
mod omniscient;
mod power_of_two;
mod prefixes;
mod round_robin;
mod scorers;
mod sglang;

use hermes_core::rng::SeededRng;

use super::dispatcher::Dispatcher;
use super::proxies::Proxies;
use super::roles::FleetRoles;
use super::settings::Settings;

/// What a dispatcher is made with.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How many servers of each role there are.
    pub roles: FleetRoles,
    /// Tokens in one block of a prompt.
    pub block_tokens: usize,
    /// Blocks in the memory of each server.
    pub blocks: usize,
    /// Decides everything that the policy leaves to chance.
    pub seed: u64,
}

/// A policy that can be simulated.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// As on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Whether all proxies share what it knows, rather than each learning from its own requests.
    pub shared: bool,
    /// Which servers it can use.
    pub servers: UsableServers,
    make: fn(Setup) -> Box<dyn Dispatcher>,
}

/// Which servers a policy can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsableServers {
    /// Those that serve whole requests.
    Aggregated,
    /// All of them.
    All,
    /// It needs prefill and decode servers.
    Pairs,
}

/// All policies.
pub const POLICIES: &[Policy] = &[
    Policy {
        name: "round-robin",
        about: "in turn",
        shared: false,
        servers: UsableServers::All,
        make: |setup| Box::new(round_robin::RoundRobin::new(setup)),
    },
    Policy {
        name: "least-request",
        about: "fewest requests in flight",
        shared: false,
        servers: UsableServers::All,
        make: |setup| Box::new(least_request::LeastRequest::new(setup)),
    },
    Policy {
        name: "power-of-two",
        about: "the less busy of two drawn by lot",
        shared: false,
        servers: UsableServers::Aggregated,
        make: |setup| Box::new(power_of_two::PowerOfTwo::new(setup)),
    },
    Policy {
        name: "gie",
        about: "weighted scorers of the Gateway API inference extension",
        shared: false,
        servers: UsableServers::Aggregated,
        make: |setup| Box::new(gie::Gie::new(setup)),
    },
    Policy {
        name: "sglang",
        about: "SGLang's cache-aware rule",
        shared: false,
        servers: UsableServers::Aggregated,
        make: |setup| Box::new(sglang::Sglang::new(setup)),
    },
    Policy {
        name: "llm-d",
        about: "llm-d's rule: sticky until saturated",
        shared: false,
        servers: UsableServers::All,
        make: |setup| {
            if setup.roles.has_pairs() {
                Box::new(llm_d_pairs::Always::new(setup))
            } else {
                Box::new(llm_d::LlmD::new(setup, setup.roles.aggregates()))
            }
        },
    },
    Policy {
        name: "llm-d-threshold",
        about: "llm-d's rule for pairs: a prefill if 16 tokens are uncached",
        shared: false,
        servers: UsableServers::Pairs,
        make: |setup| Box::new(llm_d_pairs::Threshold::new(setup)),
    },
    Policy {
        name: "dynamo",
        about: "Dynamo's cost of prefill and decode blocks",
        shared: false,
        servers: UsableServers::Aggregated,
        make: |setup| Box::new(dynamo::Dynamo::new(setup)),
    },
    Policy {
        name: "omniscient",
        about: "greedy on the true state of every cache and queue",
        shared: true,
        servers: UsableServers::All,
        make: |_| Box::new(omniscient::Omniscient),
    },
    Policy {
        name: "kv-aware",
        about: "Hermes' own: least expected cost, bound late",
        shared: true,
        servers: UsableServers::All,
        make: |setup| Box::new(kv_aware::KvAware::new(setup, true)),
    },
    Policy {
        name: "kv-aware-early",
        about: "the same, bound at arrival",
        shared: true,
        servers: UsableServers::All,
        make: |setup| Box::new(kv_aware::KvAware::new(setup, false)),
    },
];

impl Setup {
    /// What a dispatcher is made with for the fleet of `settings` and traffic in blocks of
    /// `block_tokens`.
    #[must_use]
    pub fn of(settings: &Settings, block_tokens: usize) -> Self {
        Self {
            roles: settings.roles,
            block_tokens,
            blocks: settings.blocks(block_tokens),
            seed: settings.seed,
        }
    }
}

impl Policy {
    /// The policy of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        POLICIES.iter().find(|policy| policy.name == name).copied()
    }

    /// Whether it serves every request on such servers.
    #[must_use]
    pub const fn serves(&self, roles: FleetRoles) -> bool {
        match self.servers {
            UsableServers::Aggregated => roles.aggregated > 0,
            UsableServers::All => roles.aggregated > 0 || roles.has_pairs(),
            UsableServers::Pairs => roles.has_pairs(),
        }
    }

    /// A fresh dispatcher without any state, behind this number of proxies.
    #[must_use]
    pub fn dispatcher(&self, setup: Setup, proxies: usize) -> Box<dyn Dispatcher> {
        if self.shared || proxies < 2 {
            return (self.make)(setup);
        }
        let mut rng = SeededRng::new(setup.seed);
        let each = (0..proxies)
            .map(|_| {
                (self.make)(Setup {
                    seed: rng.next_u64(),
                    ..setup
                })
            })
            .collect();
        Box::new(Proxies::new(each, rng.next_u64()))
    }
}
