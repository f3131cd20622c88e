//! What the documentation says and code can contradict.
//!
//! * [`charts`]: alerts and dashboard name metrics that exist.
//! * [`links`]: links lead to files and headings, and files that are named exist.
//! * [`metrics`]: the tables of `docs/metrics.md` are what both planes expose.
//! * [`policies`]: the tables of `docs/policies.md` are the strategies and the fields of an explanation.
//! * [`refusals`]: every code by which a proxy refuses is documented.
//! * [`simulate`]: the policies of `docs/simulate.md` are those that can be simulated.
//! * [`walks`]: functions that the walks through the code name exist.
//!
//! The tables of `docs/configuration.md` are checked by the control plane's own tests.

mod charts;
mod links;
mod metrics;
mod pages;
mod policies;
mod refusals;
mod simulate;
mod walks;
