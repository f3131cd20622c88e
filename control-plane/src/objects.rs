//! Objects of the Gateway API Inference Extension as configuration: pools, and what is said of
//! them.
//!
//! ```text
//!   API server ──watch each kind──▶ store ──▶ catalog (last good version of each object)
//!                                               │
//!                      inferencePools.policy ──▶ compile (pure) ──▶ fragments, verdicts
//!                                                                       │
//!                                                         conditions ◀─┤ (status writer)
//!   configuration file ────────────────────────────────────▶ merge ◀────┘
//!                                                              └──▶ watch<Config>
//! ```
//!
//! | object | becomes |
//! |---|---|
//! | `InferencePool` | a pool `namespace/name`: its pods, each target port an endpoint; its picker |
//! | `InferenceModel` | a rewrite of one model |
//! | `InferenceModelRewrite` | rewrites |
//! | `InferenceObjective` | an objective |
//!
//! Invariants:
//! * an object that cannot be used leaves its last good version in use, and every other object as
//!   it is;
//! * nothing is published before every kind was listed once, or is known not to be installed: half
//!   a picture would take pools away;
//! * definitions may be absent, and may be installed later;
//! * a status is written only where it differs, and only for objects of this router's pools;
//! * the file wins: objects are added to its pools, and never replace one.

mod catalog;
mod compile;
mod condition;
mod feed;
mod gateway_links;
mod gateways;
mod kind;
mod meaning;
mod metrics;
mod model;
mod objective;
mod page;
mod pool;
mod pool_reference;
mod rewrite;
mod status;
mod store;
mod targets;
mod verdict;

pub(crate) use self::{
    feed::{MergedConfig, ObjectFeed},
    gateway_links::GatewayLinks,
    metrics::ObjectMetrics,
    page::ObjectsPage,
};
