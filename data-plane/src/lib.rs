//! The data plane of Hermes: a light proxy that forwards OpenAI traffic by the newest snapshot.
//!
//! ```text
//!   client ──▶ server ─┬▶ proxy ★ ─┬─ place ─┬─ request      what is asked
//!   gateway ─▶         └▶ picker ──┤         ├─ choose       where it goes
//!                                  │         └─ asked_picker   where another picker wants it to go
//!                                  └─ exchange     sending it there, relaying the answer, recording both
//!                                       └─ pair    what the two endpoints of a pair are sent
//!
//!   control plane ─▶ sync ─▶ view ─▶ endpoint    what requests are routed by: one snapshot, its endpoints
//!   exchange ─▶ link ─▶ sync ─▶ control plane    questions for a choice, reports of requests
//!            └▶ telemetry ─▶ admin port          metrics, and the traffic as a trace
//! ```
//!
//! No file imports from a room above its own, which is, from the top: server, picker, proxy,
//! place, exchange, choose, pair, sync, view, asked_picker, endpoint, telemetry, link, request,
//! clock, tcp, worker.
//!
//! [`proxy`] is the spine: a request's whole path, of which [`place`] is the part before anything
//! is sent. That part knows no server: [`picker`] uses it for requests that a gateway sends.
//!
//! Invariants: no configuration but the control plane's address; no Kubernetes; a request is placed
//! by one view; the body of an answer is never buffered; prompts and credentials reach no log, span
//! or metric.

mod admin;
pub mod app;
pub mod args;
mod asked_picker;
mod choose;
mod clock;
mod endpoint;
mod exchange;
mod link;
mod options;
mod pair;
mod picker;
mod place;
mod proxy;
mod request;
mod server;
mod sync;
mod tcp;
mod telemetry;
mod view;
mod worker;

pub use self::{exchange::restored_answer, pair::leg_bodies, request::lookup};
