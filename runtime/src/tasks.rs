//! An owner for the background tasks of a process: the collector, the snapshot stream, the admin
//! server, and so on.
//!
//! Such a task is meant to run until the drain. One that panics, or ends earlier, leaves a process
//! that looks alive and no longer does its work, so it makes the process unhealthy ([`Liveness`])
//! and a restart can help. Work that belongs to a request is not a background task.
//!
//! Tasks of which there is one for each pool or endpoint have owners of their own, and are
//! restarted after a panic ([`RestartedTask`]).

mod restarted;

pub use self::restarted::RestartedTask;
use crate::readiness::Liveness;
use crate::shutdown::Drain;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// The background tasks of a process. Dropping it aborts them.
#[derive(Debug)]
pub struct Tasks {
    liveness: Liveness,
    drain: Drain,
    running: Mutex<JoinSet<()>>,
}

/// Lives inside a task and reports how the task ended.
struct Witness {
    name: Arc<str>,
    liveness: Liveness,
}

// === Tasks ===

impl Tasks {
    /// Tasks whose early end is reported to `liveness`, unless `drain` has begun.
    #[must_use]
    pub fn new(liveness: Liveness, drain: Drain) -> Self {
        Self {
            liveness,
            drain,
            running: Mutex::default(),
        }
    }

    /// Starts a task on the current Tokio runtime. `name` appears in logs and on `/healthz`.
    pub fn spawn(
        &self,
        name: impl Into<Arc<str>>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let witness = Witness {
            name: name.into(),
            liveness: self.liveness.clone(),
        };
        let drain = self.drain.clone();
        let mut running = self.running.lock();
        // Ended tasks would otherwise stay in the set until the shutdown.
        while running.try_join_next().is_some() {}
        running.spawn(async move {
            // Moved in whole: a capture of its fields alone would not be dropped as a witness.
            let witness = witness;
            task.await;
            if !drain.is_draining() {
                witness.report("ended before the shutdown");
            }
        });
    }

    /// Waits at most `limit` for the tasks to end by themselves, which they do when they watch the
    /// drain, then aborts those that are left. Answers how many those were.
    pub async fn shutdown(self, limit: Duration) -> usize {
        let mut running = self.running.into_inner();
        let all_ended = async { while running.join_next().await.is_some() {} };
        let _in_time = tokio::time::timeout(limit, all_ended).await;
        let left = running.len();
        if left > 0 {
            tracing::warn!(
                left,
                ?limit,
                "background tasks did not end in time and are aborted"
            );
        }
        running.shutdown().await;
        left
    }
}

// === Witness ===

impl Witness {
    fn report(&self, end: &str) {
        let Self { name, liveness } = self;
        tracing::error!(task = &**name, "background task {end}");
        liveness.fail(format!("background task `{name}` {end}"));
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // A panic unwinds through the task and drops what it holds; an abort drops it in peace.
        if std::thread::panicking() {
            self.report("panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shutdown::Shutdown;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_panic_makes_the_process_unhealthy() {
        let liveness = Liveness::default();
        let tasks = Tasks::new(liveness.clone(), Drain::default());
        tasks.spawn("collector", async { panic!("an index out of bounds") });
        assert_eq!(tasks.shutdown(LIMIT).await, 0);
        assert_eq!(
            liveness.failure().as_deref(),
            Some("background task `collector` panicked")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_early_end_makes_the_process_unhealthy() {
        let liveness = Liveness::default();
        let tasks = Tasks::new(liveness.clone(), Drain::default());
        tasks.spawn("sync", async {});
        assert_eq!(tasks.shutdown(LIMIT).await, 0);
        assert_eq!(
            liveness.failure().as_deref(),
            Some("background task `sync` ended before the shutdown")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_in_the_drain_is_as_it_should_be() {
        let (shutdown, trigger) = Shutdown::manual();
        let liveness = Liveness::default();
        let tasks = Tasks::new(liveness.clone(), shutdown.drain());
        tasks.spawn("admin", shutdown.drain().draining());
        trigger.fire();
        shutdown.run(LIMIT).await;
        assert_eq!(tasks.shutdown(LIMIT).await, 0);
        assert_eq!(liveness.failure(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_the_drain_is_aborted_and_the_process_stays_healthy() {
        let liveness = Liveness::default();
        let tasks = Tasks::new(liveness.clone(), Drain::default());
        tasks.spawn("deaf", std::future::pending());
        assert_eq!(tasks.shutdown(LIMIT).await, 1);
        assert_eq!(liveness.failure(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn ended_tasks_do_not_pile_up() {
        let tasks = Tasks::new(Liveness::default(), Drain::default());
        for _ in 0..100 {
            tasks.spawn("short", async {});
            tokio::task::yield_now().await;
        }
        assert!(tasks.running.lock().len() < 100);
    }
}
