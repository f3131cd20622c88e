//! The process's clock: pure code takes times as durations since the process started.

use std::{sync::LazyLock, time::Duration};

use tokio::time::Instant;

/// The start of the clock: its first use.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Time since the start.
pub(crate) fn uptime() -> Duration {
    START.elapsed()
}
