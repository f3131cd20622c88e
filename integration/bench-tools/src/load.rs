//! Load on a real server, and what a client sees of it: honest latencies, time to first token, hit
//! rate.
//!
//! ```text
//! arrivals ─┐                        ┌─▶ exchange ─▶ sse        one request, watched to its end
//! trace ────┼─▶ workload ─▶ run ─▶ client
//! synthesis ┘                        └─▶ tally ─▶ report        all requests, added up
//! ```
//!
//! Invariants: a run is bounded in count, time and concurrency; the same arguments send the same
//! bytes at the same intended times; an open loop counts latency from those times. Nothing here
//! prints: callers hand a [`Report`] the writer they want.

mod args;
pub mod arrivals;
pub mod client;
pub mod conversation;
mod cpu;
pub mod exchange;
mod report;
pub mod run;
pub mod sse;
pub mod synthesis;
pub mod tally;
pub mod trace;
pub mod workload;

use std::future::pending;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub(crate) use args::positive;
pub use args::{LoadArgs, Workload, load};
pub use cpu::NoSuchProcess;
pub use report::{Report, Share, Summary};

/// Why a load could not be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The target is not one that the client can send to.
    #[error(transparent)]
    Target(#[from] client::BadTarget),
    /// The trace cannot be read.
    #[error(transparent)]
    Trace(#[from] trace::TraceError),
    /// The CPU time of a process cannot be read.
    #[error(transparent)]
    Cpu(#[from] cpu::NoSuchProcess),
}

/// Runs `work` until Ctrl-C as [`until_interrupted`] does, and cancels its second token at SIGTERM:
/// it is enough, and what is in flight may finish.
pub(crate) async fn until_enough<T>(
    work: impl AsyncFnOnce(CancellationToken, CancellationToken) -> T,
) -> T {
    until_interrupted(async |stop| {
        let enough = CancellationToken::new();
        let mut work = std::pin::pin!(work(stop, enough.clone()));
        tokio::select! {
            done = &mut work => return done,
            () = terminated() => enough.cancel(),
        }
        work.await
    })
    .await
}

/// Ends with the first SIGTERM; never, where there can be none.
async fn terminated() {
    let Ok(mut signals) = signal(SignalKind::terminate()) else {
        return pending().await;
    };
    if signals.recv().await.is_none() {
        pending::<()>().await;
    }
}

/// Runs `work`, and asks it to stop at the first Ctrl-C.
pub(crate) async fn until_interrupted<T>(work: impl AsyncFnOnce(CancellationToken) -> T) -> T {
    let stop = CancellationToken::new();
    let mut work = std::pin::pin!(work(stop.clone()));
    tokio::select! {
        done = &mut work => return done,
        // Without a signal handler there is nothing to wait for, and the run ends by its own
        // bounds.
        Ok(()) = tokio::signal::ctrl_c() => stop.cancel(),
    }
    work.await
}
