//! A discrete-event model of a fleet: what a policy would do to a trace, without any server.
//!
//! ```text
//! traffic ─arrivals─▶ run ◀──▶ dispatcher      round robin, the rules of others, Hermes' own
//!                      │ ▲
//!               place  ▼ │ first token, finished, samples
//!                     fleet = servers: the scheduler and block cache of the simulated engine, one event a step
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
mod dispatcher;
mod events;
mod fleet;
mod fleet_args;
pub mod policies;
mod proxies;
mod race;
mod run;
mod sample;
mod server;
mod settings;
mod traffic;

pub(crate) use self::args::title;
pub use self::args::{SimulateArgs, SimulateError, simulate};
pub use self::bound::lower_bound;
pub use self::dispatcher::{
    Arrival, Dispatcher, Finished, FirstToken, Moment, Placement, RequestIndex, Sample,
};
pub use self::fleet::{Fleet, Prospect};
pub use self::fleet_args::FleetArgs;
pub(crate) use self::fleet_args::count;
pub use self::proxies::Proxies;
pub use self::race::{RaceError, race};
pub use self::run::{RunError, run};
pub use self::settings::{Settings, Slow};
pub use self::traffic::{CHAT_BLOCK, Request, Traffic, TrafficError};

#[cfg(test)]
mod tests;
