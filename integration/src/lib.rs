//! The outside world of Hermes, in Rust: what tests, benches and trials put around the planes.
//!
//! ```text
//!   load, replay ──HTTP──▶ Hermes (fleet: both planes) ──HTTP──▶ engine (simulated model servers)
//!                              │            │
//!                     apiserver (Kubernetes)  kvmanager (match_sort), conductor (Mooncake)
//! ```
//!
//! [`replica`] stands in for a control plane where a test has to say what a real one would not.
//!
//! Everything here is a real server or client over real sockets, scripted by its owner; nothing of it is a flag or a
//! mode of the planes. [`engine`], [`load`] and [`fleet`] also serve people, through the `hermes` binary.

pub mod apiserver;
pub mod collector;
pub mod comparison;
pub mod conductor;
pub mod engine;
pub mod fleet;
pub mod kvmanager;
pub mod load;
pub mod record;
pub mod rehearsal;
pub mod replica;
pub mod simulate;
mod stand_in;
