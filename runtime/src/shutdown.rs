//! From a signal to the end of the process, in three written steps.
//!
//! 1. **Drain.** At the first request (SIGTERM, SIGINT, or a [`Trigger`]) [`Drain::draining`]
//!    resolves: the process stops being ready, stops accepting, closes idle connections and ends
//!    its long-lived streams.
//! 2. **Wait.** Work that is tracked by [`Drain::track`] may finish, for at most the grace period.
//! 3. **Force.** When the grace period is over, or at a second request, [`Drain::forced`] resolves:
//!    what is left is cut off. It resolves after a complete drain too, so that whatever serves
//!    until the very end has one thing to wait for.
//!
//! The admin port answers until step 3, so that an operator can watch a drain. This module decides
//! when; what to stop belongs to the holders of a [`Drain`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long forced work gets to notice before [`Shutdown::run`] returns and the process ends under
/// it.
const FORCE_LIMIT: Duration = Duration::from_secs(1);

/// The one owner of the three steps.
#[derive(Debug)]
pub struct Shutdown {
    requests: Requests,
    drain: Drain,
}

/// What the rest of the process holds. Clones see the same steps; the default is a drain that never
/// starts.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    draining: CancellationToken,
    /// As `draining`, for those who ask at every request: a token's answer takes its lock.
    has_begun: Arc<AtomicBool>,
    /// That of the process, in the drain of a part.
    process_has_begun: Option<Arc<AtomicBool>>,
    forced: CancellationToken,
    work: TaskTracker,
}

/// Begins the drain of a part of a process. Dropping it begins nothing.
#[derive(Debug)]
pub struct PartialDrain {
    draining: CancellationToken,
    has_begun: Arc<AtomicBool>,
}

/// Work that a drain waits for, until it is dropped.
#[derive(Debug)]
#[must_use = "work is tracked only while this is held"]
pub struct Tracked {
    _token: TaskTrackerToken,
}

/// Asks for a shutdown by hand: for tests, and for planes that run inside another process.
#[derive(Clone, Debug)]
pub struct Trigger {
    requests: mpsc::Sender<()>,
}

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All tracked work finished in time.
    Drained,
    /// The grace period was over, or a second request came. `left` is the work that was in flight
    /// then.
    Forced {
        /// Tracked work that had not finished when it was cut off.
        left: usize,
    },
}

#[derive(Debug)]
enum Requests {
    Signals {
        terminate: Signal,
        interrupt: Signal,
    },
    Manual(mpsc::Receiver<()>),
}

// === Shutdown ===

impl Shutdown {
    /// A shutdown that SIGTERM and SIGINT ask for.
    ///
    /// # Errors
    ///
    /// When the signal handlers cannot be installed.
    pub fn from_signals() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self {
            requests: Requests::Signals {
                terminate,
                interrupt,
            },
            drain: Drain::default(),
        })
    }

    /// A shutdown that only its trigger asks for.
    #[must_use]
    pub fn manual() -> (Self, Trigger) {
        // A second request forces; a third has nothing to add.
        let (sender, receiver) = mpsc::channel(2);
        let shutdown = Self {
            requests: Requests::Manual(receiver),
            drain: Drain::default(),
        };
        (shutdown, Trigger { requests: sender })
    }

    /// A handle on the steps.
    #[must_use]
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Waits for the first request, then goes through the steps with at most `grace` in the second.
    pub async fn run(self, grace: Duration) -> Outcome {
        let Self {
            mut requests,
            drain,
        } = self;
        let Drain {
            draining,
            has_begun,
            process_has_begun: _,
            forced,
            work,
        } = drain;
        requests.next().await;
        tracing::info!(
            in_flight = work.len(),
            ?grace,
            "draining: no new work is taken"
        );
        has_begun.store(true, Ordering::Release);
        draining.cancel();
        work.close();

        let outcome = tokio::select! {
            biased;
            () = work.wait() => Outcome::Drained,
            () = requests.next() => Outcome::Forced { left: work.len() },
            () = tokio::time::sleep(grace) => Outcome::Forced { left: work.len() },
        };
        forced.cancel();
        match outcome {
            Outcome::Drained => tracing::info!("drained: all work is done"),
            Outcome::Forced { left } => {
                tracing::warn!(left, "forced: work in flight is cut off");
                let _in_time = tokio::time::timeout(FORCE_LIMIT, work.wait()).await;
            }
        }
        outcome
    }
}

// === Drain ===

impl Drain {
    /// Resolves at step 1, and at once when it has begun. The future owns what it needs.
    pub fn draining(&self) -> WaitForCancellationFutureOwned {
        self.draining.clone().cancelled_owned()
    }

    /// Whether step 1 has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        let has_begun = |flag: &Arc<AtomicBool>| flag.load(Ordering::Acquire);
        has_begun(&self.has_begun) || self.process_has_begun.as_ref().is_some_and(has_begun)
    }

    /// The drain of a part of the process, such as one of its ports: it begins with this one, or
    /// before when it is asked for. What is tracked in it is tracked here, and it is forced with
    /// this one.
    #[must_use]
    pub fn of_part(&self) -> (Self, PartialDrain) {
        let (draining, has_begun) = (self.draining.child_token(), Arc::<AtomicBool>::default());
        let begin = PartialDrain {
            draining: draining.clone(),
            has_begun: Arc::clone(&has_begun),
        };
        let part = Self {
            draining,
            has_begun,
            process_has_begun: Some(Arc::clone(&self.has_begun)),
            forced: self.forced.clone(),
            work: self.work.clone(),
        };
        (part, begin)
    }

    /// Resolves at step 3, and at once when it has begun. The future owns what it needs.
    pub fn forced(&self) -> WaitForCancellationFutureOwned {
        self.forced.clone().cancelled_owned()
    }

    /// Whether step 3 has begun.
    #[must_use]
    pub fn is_forced(&self) -> bool {
        self.forced.is_cancelled()
    }

    /// Counts one piece of work, such as a connection or a request with its response body, until
    /// the answer is dropped.
    pub fn track(&self) -> Tracked {
        Tracked {
            _token: self.work.token(),
        }
    }

    /// How much tracked work is in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.work.len()
    }
}

// === PartialDrain ===

impl PartialDrain {
    /// Begins it.
    pub fn begin(&self) {
        self.has_begun.store(true, Ordering::Release);
        self.draining.cancel();
    }
}

// === Trigger ===

impl Trigger {
    /// Asks once: the first time for a drain, the second time for force.
    pub fn fire(&self) {
        // Full means that force was asked for already, closed that the shutdown is over.
        let _full_or_closed = self.requests.try_send(());
    }
}

// === Requests ===

impl Requests {
    async fn next(&mut self) {
        let asked = match self {
            Self::Signals {
                terminate,
                interrupt,
            } => {
                tokio::select! {
                    asked = terminate.recv() => asked,
                    asked = interrupt.recv() => asked,
                }
            }
            Self::Manual(requests) => requests.recv().await,
        };
        if asked.is_none() {
            // All triggers are gone, which is not a request.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const GRACE: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn nothing_happens_before_the_first_request() {
        let (shutdown, _trigger) = Shutdown::manual();
        let drain = shutdown.drain();
        let run = tokio::spawn(shutdown.run(GRACE));
        tokio::time::sleep(GRACE * 10).await;
        assert!(!drain.is_draining() && !run.is_finished());
        run.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_when_the_last_work_ends() {
        let (shutdown, trigger) = Shutdown::manual();
        let drain = shutdown.drain();
        let work = drain.track();
        let run = tokio::spawn(shutdown.run(GRACE));

        trigger.fire();
        drain.draining().await;
        assert!(!drain.is_forced() && !run.is_finished());
        assert_eq!(drain.in_flight(), 1);

        drop(work);
        assert_eq!(
            run.await.expect("the shutdown does not panic"),
            Outcome::Drained
        );
        assert!(drain.is_forced(), "what serves until the end stops too");
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_outlives_the_grace_period_is_cut_off() {
        let (shutdown, trigger) = Shutdown::manual();
        let drain = shutdown.drain();
        let work = drain.track();
        let cut_off = tokio::spawn({
            let forced = drain.forced();
            async move {
                forced.await;
                drop(work);
            }
        });
        let start = Instant::now();
        trigger.fire();
        assert_eq!(shutdown.run(GRACE).await, Outcome::Forced { left: 1 });
        assert_eq!(start.elapsed(), GRACE);
        cut_off.await.expect("the work saw the force");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_request_forces_at_once() {
        let (shutdown, trigger) = Shutdown::manual();
        let drain = shutdown.drain();
        let work = drain.track();
        let start = Instant::now();
        trigger.fire();
        trigger.fire();
        assert_eq!(shutdown.run(GRACE).await, Outcome::Forced { left: 1 });
        assert_eq!(
            start.elapsed(),
            FORCE_LIMIT,
            "work that ignores the force holds the process no longer than this"
        );
        drop(work);
    }

    #[tokio::test]
    async fn a_termination_signal_asks_for_the_drain() {
        let shutdown = Shutdown::from_signals().expect("handlers are installed");
        let drain = shutdown.drain();
        let terminate = format!("kill -TERM {}", std::process::id());
        let sent = std::process::Command::new("sh")
            .args(["-c", &terminate])
            .status();
        assert!(sent.is_ok_and(|status| status.success()));
        assert_eq!(shutdown.run(GRACE).await, Outcome::Drained);
        assert!(drain.is_draining());
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_drains_by_itself_or_with_its_process() {
        let (shutdown, trigger) = Shutdown::manual();
        let drain = shutdown.drain();
        let ((first, begin), (second, _unused)) = (drain.of_part(), drain.of_part());
        let work = second.track();
        begin.begin();
        first.draining().await;
        assert!(first.is_draining() && !second.is_draining() && !drain.is_draining());
        trigger.fire();
        let run = tokio::spawn(shutdown.run(GRACE));
        second.draining().await;
        assert!(second.is_draining() && !first.is_forced());
        drop(work);
        assert_eq!(run.await.expect("no panic"), Outcome::Drained);
        assert!(first.is_forced(), "a part is forced with its process");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_trigger_is_not_a_request() {
        let (shutdown, trigger) = Shutdown::manual();
        drop(trigger);
        let ended = tokio::time::timeout(GRACE * 10, shutdown.run(GRACE)).await;
        assert!(ended.is_err());
    }
}
