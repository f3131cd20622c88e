//! What the documentation says and running code can contradict. What needs nothing running is in
//! `integration/tree`.
//!
//! * [`metrics`]: the tables of `docs/metrics.md` are what both planes expose.
//! * [`policies`]: the tables of `docs/policies.md` are the strategies and the fields of an
//!   explanation.
//! * [`simulate`]: the policies of `docs/simulate.md` are those that can be simulated.
//!
//! The tables of `docs/configuration.md` are checked by the control plane's own tests.

mod metrics;
mod pages;
mod policies;
mod simulate;
