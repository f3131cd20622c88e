//! Serves the queues while time alone can change what they do.
//!
//! Most queued requests are bound by events, such as a first byte; the ticker is for what follows
//! from time: deadlines, samples that grow stale, prefills that are assumed complete. It sleeps
//! while no request is queued.

use std::time::Duration;

use tokio::time::{self, MissedTickBehavior};

use super::PoolDirectory;

/// Pause between two rounds over the queues: a tenth of what a person notices.
const QUEUE_TICK: Duration = Duration::from_millis(10);

/// Runs until it is dropped.
pub(crate) async fn run(pools: &PoolDirectory) {
    loop {
        pools.queued().await;
        let mut ticks = time::interval(QUEUE_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if !pools.serve_queues() {
                break;
            }
        }
    }
}
