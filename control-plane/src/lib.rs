//! The control plane: knows which model servers exist, how busy they are and what is in their caches, streams that to
//! every proxy, and answers where each request should go.
//!
//! ```text
//!   config ────┐
//!   discovery ─┼─▶ pipeline ─▶ cluster ─▶ snapshot ─▶ serve::sync ──▶ proxies
//!   collector ─┘      └─────▶ brains ◀─▶ serve::score, reports ◀────▶ proxies
//!                                          ▲
//!               tokens ─▶  kvmanager ──────┘ (cache hits, when asked in time)
//! ```
//!
//! Read [`pipeline`] first: an update's whole path, top to bottom. Then [`brain`]: what a choice reads and books.
//!
//! Invariants:
//! * it serves no user's traffic: when it is gone, proxies go on with what they know;
//! * replicas are equal and do not talk: each has all inputs, and numbers its own snapshots;
//! * one owner per state, every queue bounded, every task owned; nothing is kept on disk.

pub mod admin;
pub mod announce;
pub mod app;
pub mod args;
pub mod brain;
pub mod cluster;
pub mod collector;
pub mod config;
pub mod discovery;
mod flights;
pub mod inquiry;
pub mod kv_events;
pub mod kvmanager;
pub mod metrics;
pub mod pipeline;
pub mod process;
pub mod serve;
pub mod tokens;
