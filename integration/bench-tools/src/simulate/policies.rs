//! The policies by name: the one list from which the command line, its help and its checks are
//! made.

mod choice;
mod dynamo;
mod gie;
mod inflight;
mod kv_aware;
mod least_request;
mod llm_d;
mod omniscient;
mod power_of_two;
mod prefixes;
mod round_robin;
mod sglang;

use hermes_core::rng::SeededRng;

use super::dispatcher::Dispatcher;
use super::proxies::Proxies;

/// What a dispatcher is made with.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How many servers there are.
    pub servers: usize,
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
    make: fn(Setup) -> Box<dyn Dispatcher>,
}

/// All policies.
pub const POLICIES: &[Policy] = &[
    Policy {
        name: "round-robin",
        about: "in turn",
        shared: false,
        make: |setup| Box::new(round_robin::RoundRobin::new(setup)),
    },
    Policy {
        name: "least-request",
        about: "fewest requests in flight",
        shared: false,
        make: |setup| Box::new(least_request::LeastRequest::new(setup)),
    },
    Policy {
        name: "power-of-two",
        about: "the less busy of two drawn by lot",
        shared: false,
        make: |setup| Box::new(power_of_two::PowerOfTwo::new(setup)),
    },
    Policy {
        name: "gie",
        about: "weighted scorers of the Gateway API inference extension",
        shared: false,
        make: |setup| Box::new(gie::Gie::new(setup)),
    },
    Policy {
        name: "sglang",
        about: "SGLang's cache-aware rule",
        shared: false,
        make: |setup| Box::new(sglang::Sglang::new(setup)),
    },
    Policy {
        name: "llm-d",
        about: "llm-d's rule: sticky until saturated",
        shared: false,
        make: |setup| Box::new(llm_d::LlmD::new(setup)),
    },
    Policy {
        name: "dynamo",
        about: "Dynamo's cost of prefill and decode blocks",
        shared: false,
        make: |setup| Box::new(dynamo::Dynamo::new(setup)),
    },
    Policy {
        name: "omniscient",
        about: "greedy on the true state of every cache and queue",
        shared: true,
        make: |_| Box::new(omniscient::Omniscient),
    },
    Policy {
        name: "kv-aware",
        about: "Hermes' own: least expected cost, bound late",
        shared: true,
        make: |setup| Box::new(kv_aware::KvAware::new(setup, true)),
    },
    Policy {
        name: "kv-aware-early",
        about: "the same, bound at arrival",
        shared: true,
        make: |setup| Box::new(kv_aware::KvAware::new(setup, false)),
    },
];

impl Policy {
    /// The policy of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        POLICIES.iter().find(|policy| policy.name == name).copied()
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
