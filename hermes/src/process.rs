//! What every command shares that runs until a signal.

use std::time::Duration;

use hermes_runtime::telemetry::Service;

/// The name and version of this process in traces.
pub(crate) const SERVICE: Service = Service {
    name: "hermes",
    version: env!("CARGO_PKG_VERSION"),
};

/// Limit for what is left at the end of a command: spans to export, answers to write, blocking
/// reads.
pub(crate) const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
