//! What people run around Hermes, as a library: load, recorded traces, replay, simulation and their
//! reports.
//!
//! ```text
//!   load, replay ──HTTP──▶ Hermes ([`fleet`]: both planes) ──HTTP──▶ simulated engines (`hermes-engine-sim`)
//!        ▲                                       │
//!     record                              [`kv_manager`]
//! ```
//!
//! The `hermes` binary has a command for each of them. Nothing here is a mode of the planes.

pub mod chats;
pub mod fleet;
pub mod kv_manager;
pub mod load;
pub mod processes;
pub mod record;
pub mod replay;
pub mod report;
pub mod simulate;
