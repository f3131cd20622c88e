//! Serves the queues when they are due.
//!
//! Most queued requests are bound by events, such as a first byte. The ticker is for what follows
//! from time (deadlines, samples that grow stale, prefills that are assumed complete), and for
//! events whose plan was postponed so that others share it. It sleeps while no request is queued.

use tokio::time;

use super::PoolDirectory;

/// Runs until it is dropped.
pub(crate) async fn run(pools: &PoolDirectory) {
    loop {
        match pools.serve_queues() {
            None => pools.queue_waker().woken().await,
            Some(due) => tokio::select! {
                () = time::sleep_until(due) => {}
                () = pools.queue_waker().woken() => {}
            },
        }
    }
}
