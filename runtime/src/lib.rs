//! What a process of either plane needs around its work. Nothing here knows what Hermes routes.
//!
//! ```text
//!   signals ──▶ shutdown ──Drain──▶ listeners, tasks, readiness
//!                                        │
//!   tasks ──a task died──▶ readiness::Liveness ──▶ admin  /healthz
//!   gates ──opened────────▶ readiness::Readiness ─▶ admin  /readyz
//!   families ─────────────▶ metrics ──────────────▶ admin  /metrics
//!   spans, log lines ─────▶ telemetry ────────────▶ stderr, OTLP
//! ```
//!
//! * [`telemetry`]: log lines, and OTLP traces when the `OTEL_*` variables ask for them.
//! * [`propagation`]: the W3C trace context, in and out of HTTP headers and string pairs.
//! * [`readiness`]: what must hold before traffic may come, and whether the process is healthy at
//!   all.
//! * [`admin`]: the HTTP server for probes, metrics and debug routes, on a port of its own.
//! * [`shutdown`]: signals to a drain in three steps.
//! * [`tasks`]: owners for background tasks; one that dies makes the process unhealthy, or is
//!   restarted.
//! * [`panics`]: the count of panics, and what is logged of them.
//! * [`metrics`]: families, build info, process numbers, both text formats.
//! * [`open_files`]: the limit of open files.
//! * [`memory_limit`]: what a container may take.
//! * [`percent`]: percent decoding of URLs and lists.
//! * [`regular_file`]: files that an operator names, read up to a limit.
//! * [`crypto`]: the one TLS provider of the process.
//! * [`tls`]: mutual TLS between the planes, by a folder of certificates that may change.

pub mod admin;
pub mod crypto;
pub mod memory_limit;
pub mod metrics;
pub mod open_files;
pub mod panics;
pub mod percent;
pub mod propagation;
pub mod readiness;
pub mod regular_file;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;
pub mod tls;
