//! The decisions of Hermes, as pure functions and state machines.
//!
//! ```text
//!   prompt ──▶ prefix ──▶ Query ─┐
//!   Snapshot (pools, endpoints) ─┼─▶ scheduler ──▶ Assignment ──▶ Ledger (bookings)
//!   Load (samples, health) ──────┤
//!                                └─▶ pick ──▶ EndpointChoice
//!   both fill an Explanation, for people
//! ```
//!
//! Both planes call the same code: the control plane's scorer for every `Score`, and the data plane
//! when the control plane is away. That is why nothing here may do I/O or know a runtime.
//!
//! Invariants:
//! * no tokio, hyper, tonic or kube, and no clock: time, ages, samples and randomness are
//!   arguments;
//! * a missing or stale signal is `None`, never zero: it switches a term off and never excludes an
//!   endpoint;
//! * every collection that outside input can grow has a bound, stated where it is declared.

pub mod backoff;
pub mod block_index;
mod cluster;
mod estimate;
pub mod explanation;
mod hash;
pub mod header_names;
mod health;
pub mod history;
pub mod learned_index;
pub mod ledger;
pub mod nearest;
pub mod pick;
pub mod placement;
pub mod policy;
pub mod prefix;
pub mod query;
pub mod rng;
pub mod route_table;
pub mod scheduler;
pub mod stored_responses;

pub use cluster::{
    address, certificate, collection, delta, departures, inference_pool, listener, load,
    rendezvous, rewrites, route, snapshot,
};
pub use health::{ejection, refusals, retry_budget};
