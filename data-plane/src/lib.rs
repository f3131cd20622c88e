//! The data plane of Hermes: a light proxy that forwards OpenAI traffic by the newest snapshot.
//!
//! ```text
//!   client ─▶ workers ─▶ listen ─▶ proxy ★ ─┬─ api, read, body, prompt     what is asked
//!                                           ├─ choose ─ score, recall      where it goes
//!                                           ├─ forward ─ upstream          sending it there
//!                                           └─ relay ─ account, usage      the answer, and what is counted
//!
//!   control plane ─▶ sync ─▶ view (one ArcSwap)                 what all of this goes by
//!   account ─▶ report ─▶ sync ─▶ control plane                  what became of requests
//!           ├▶ recall ─▶ sync ─▶ a pool's new owner             what was sent where
//!           └▶ records ─▶ admin port                            the traffic as a trace, for whoever listens
//! ```
//!
//! [`proxy`] is the spine: a request's whole path in one file.
//!
//! Invariants: no configuration but the control plane's address; no Kubernetes; a request sees one view; the body of
//! an answer is never buffered; prompts and credentials reach no log, span or metric.

mod account;
mod admin;
mod api;
pub mod app;
pub mod args;
mod body;
mod choose;
mod clock;
mod forward;
mod gate;
mod headers;
mod identity;
mod listen;
pub mod lookup;
mod metrics;
mod models;
mod options;
mod outgoing;
mod prompt;
mod proxy;
mod read;
mod recall;
mod records;
mod refusal;
mod relay;
mod report;
mod score;
mod sync;
mod trace;
mod upstream;
mod usage;
mod view;
mod workers;
