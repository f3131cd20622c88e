//! What the documentation says and code can contradict.
//!
//! * [`metrics`]: the tables of `docs/metrics.md` are what both planes expose.
//! * [`links`]: links lead to files and headings, and files that are named exist.
//!
//! The tables of `docs/configuration.md` are checked by the control plane's own tests.

mod links;
mod metrics;
mod pages;
