//! A discrete-event model of a fleet: what a policy would do to a trace, without any server.
//!
//! ```text
//! traffic ─arrivals─▶ run ◀──▶ dispatcher      round robin, the rules of others, Hermes' own
//!                      │ ▲
//!               place  ▼ │ first token, finished, samples
//!                     fleet = servers: the scheduler and block cache of the simulated engine, one event a step
//!                       └─ KV caches of requests that are split, from one server to another
//!                      │
//!                      └─▶ served requests ─▶ [`crate::report`]
//! ```
//!
//! The servers run the very code of [`hermes_engine_sim`], so that a simulation and a replay over
//! HTTP agree. Time is a number: nothing here waits. Invariants: the same trace, settings and seed
//! give the same outcome, to the last digit; every request is placed once and finishes once; a
//! dispatcher learns only what its callbacks say, unless it asks the [`Fleet`] for the truth, which
//! only the omniscient one does.
//!
//! Not modelled: the network, tokenizers, time that a router needs for its choice, failures, and
//! the text of answers (the blocks of a generated answer occupy memory and are never hit, as traces
//! give a later prompt's blocks new names).

mod args;
mod backlog;
mod bound;
mod command;
mod dispatcher;
mod events;
mod field;
mod fleet;
mod fleet_args;
mod highest_load;
mod parallel;
pub mod policies;
mod proxies;
mod race;
mod roles;
mod run;
mod sample;
mod server;
mod settings;
mod traffic;
mod transfers;

pub use self::args::SimulateArgs;
pub use self::bound::lower_bound;
pub(crate) use self::command::title;
pub use self::command::{SimulateError, simulate};
pub use self::dispatcher::{
    Arrival, Dispatcher, Finished, FirstToken, Moment, Placement, Prefilled, RequestIndex, Sample,
};
pub use self::field::UselessServers;
pub use self::fleet::{Fleet, Prospect};
pub use self::fleet_args::FleetArgs;
pub(crate) use self::fleet_args::count;
pub use self::proxies::Proxies;
pub use self::race::{Entrant, Race, RaceError};
pub use self::roles::FleetRoles;
pub use self::run::{RunError, run};
pub use self::settings::{Settings, Slow};
pub use self::traffic::{CHAT_BLOCK, Request, Traffic, TrafficError};
pub use self::transfers::TransferSpeed;

#[cfg(test)]
mod tests;
