//! The control plane: discovers model servers, measures their load, indexes their KV caches,
//! streams that state to every proxy, and answers which endpoint a request should go to.
//!
//! ```text
//!   config ◀── objects
//!      └───────┐
//!   discovery ─┼─▶ pipeline ─▶ cluster ─▶ snapshot ─▶ serve::sync ──▶ proxies
//!   engines ───┘      └─────▶ pools ◀──▶ serve::score, reports ◀─────▶ proxies
//!                               ▲
//!   cache_sources ──────────────┘   (cache hits: KV events, KV manager, tokenizer)
//! ```
//!
//! | folder | owns |
//! |---|---|
//! | [`app`] | wiring: ports, tasks, drain |
//! | `pipeline`, `cluster` | an update's whole path; start reading there |
//! | `pools` | choices, bookings and queues, one lock per pool |
//! | `serve` | the gRPC calls of proxies |
//! | [`snapshot_encoder`] | the messages that carry snapshots, each encoded once |
//! | `admin` | debug pages and the gauges that are computed per scrape |
//! | [`discovery`], [`engines`], [`cache_sources`] | what Kubernetes, engines and cache indexes report |
//! | [`config`] | the configuration file |
//! | `gateway_api` | objects of the Gateway API as listeners and routes |
//! | `objects` | objects of the Inference Extension, which are configuration too |
//! | [`gateway_ports`] | the Service of each Gateway, and the proxies' ports that it leads to |
//! | [`listener_certificates`] | certificates of listeners from Secrets |
//! | [`events`] | Kubernetes Events about the configuration |
//! | `news` | values that are sent when they differ |
//! | `paced_writes` | which write to the API server is next, without an election |
//! | `bounded_body` | bodies of HTTP responses, up to a limit |
//!
//! Invariants:
//! * no user traffic passes through it: while it is down, proxies go on with their last snapshot;
//! * replicas are equal: each has all inputs, and numbers its own snapshots; they pass on nothing but
//!   KV events that reached one of them only;
//! * one owner per state, every queue bounded, every task owned; nothing is kept on disk.

pub mod app;
pub mod args;
pub mod cache_sources;
pub mod config;
pub mod discovery;
pub mod engines;
pub mod events;
pub mod gateway_ports;
pub mod listener_certificates;
pub mod metrics;
pub mod process;
pub mod snapshot_encoder;

mod admin;
mod bounded_body;
mod cluster;
mod gateway_api;
mod news;
mod objects;
mod paced_writes;
mod pipeline;
mod pools;
mod serve;
