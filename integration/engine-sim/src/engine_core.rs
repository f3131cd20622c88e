//! The running engine core: the scheduler under one lock, the task that steps it, and tickets for
//! those who wait.
//!
//! Progress travels through `watch` channels, where the latest value wins: a slow client holds no
//! queue. A ticket that is dropped before its sequence is done aborts it, so a client that leaves
//! frees its blocks at once. With a time scale of 0 there is no task to wait for: `submit` runs its
//! sequence to the end under the lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::config::EngineConfig;
use crate::faults::Faults;
use crate::kv_events::Publisher;
use crate::model::scheduler::{Progress, Scheduler, Step};
use crate::model::sequence::{Job, SequenceId};

/// How late a step may be before the simulation gives up catching up with the clock.
const MAX_LAG: Duration = Duration::from_millis(50);

/// The engine ended while a sequence was waiting.
#[derive(Clone, Copy, Debug, Error)]
#[error("the simulated engine stopped")]
pub(crate) struct Stopped;

#[derive(Debug)]
pub(crate) struct EngineCore {
    config: Arc<EngineConfig>,
    faults: Arc<Faults>,
    publisher: Option<Arc<Publisher>>,
    started: Instant,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug)]
struct State {
    scheduler: Scheduler,
    /// Senders go away with the core's task, which is how tickets learn of the end.
    watchers: HashMap<SequenceId, watch::Sender<Progress>>,
    aborted: u64,
    stopped: bool,
}

/// A claim on one running sequence.
#[derive(Debug)]
pub(crate) struct Ticket {
    core: Arc<EngineCore>,
    id: SequenceId,
    state: TicketState,
}

#[derive(Debug)]
enum TicketState {
    Done(Progress),
    Live(watch::Receiver<Progress>),
}

impl EngineCore {
    pub(crate) fn new(
        config: Arc<EngineConfig>,
        faults: Arc<Faults>,
        publisher: Option<Arc<Publisher>>,
    ) -> Self {
        let mut scheduler = config.scheduler();
        if publisher.is_some() {
            scheduler.record();
        }
        let state = State {
            scheduler,
            watchers: HashMap::new(),
            aborted: 0,
            stopped: false,
        };
        Self {
            config,
            faults,
            publisher,
            started: Instant::now(),
            state: Mutex::new(state),
            wake: Notify::new(),
        }
    }

    /// Queues a job.
    pub(crate) fn submit(self: &Arc<Self>, job: Job) -> Ticket {
        let now = self.started.elapsed();
        let mut state = self.state.lock();
        let id = state.scheduler.submit(job, now);
        if self.config.is_instant() {
            let progress = run_to_end(&mut state.scheduler, now);
            self.publish(&mut state.scheduler);
            return Ticket {
                core: Arc::clone(self),
                id,
                state: TicketState::Done(progress),
            };
        }
        let (sender, receiver) = watch::channel(Progress::default());
        if !state.stopped {
            state.watchers.insert(id, sender);
        }
        drop(state);
        self.wake.notify_one();
        Ticket {
            core: Arc::clone(self),
            id,
            state: TicketState::Live(receiver),
        }
    }

    /// Steps the scheduler for ever. The caller owns the task; `close` ends what waits for it.
    pub(crate) async fn run(&self) {
        let mut due = Instant::now();
        loop {
            let planned = self.plan();
            let Some((step, running)) = planned else {
                self.wake.notified().await;
                due = Instant::now();
                continue;
            };
            // Steps are due one after the other, so that timer granularity does not add up.
            let earliest = Instant::now().checked_sub(MAX_LAG).unwrap_or(due);
            due = due.max(earliest) + self.config.duration(step, running, self.faults.slow());
            tokio::time::sleep_until(due).await;
            self.commit();
        }
    }

    /// The next step, and the requests that run in it.
    fn plan(&self) -> Option<(Step, usize)> {
        let mut state = self.state.lock();
        let step = state.scheduler.plan(self.started.elapsed())?;
        Some((step, state.scheduler.running()))
    }

    /// Ends every ticket with `Stopped`.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.stopped = true;
        state.watchers.clear();
    }

    /// Reads the scheduler; keep it short, the engine stands still meanwhile.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Scheduler) -> T) -> T {
        read(&self.state.lock().scheduler)
    }

    /// Empties the cache, if nothing runs; answers whether it did.
    pub(crate) fn reset_cache(&self) -> bool {
        self.state.lock().scheduler.reset_cache()
    }

    /// Sequences that were dropped before their end.
    pub(crate) fn aborted(&self) -> u64 {
        self.state.lock().aborted
    }

    fn commit(&self) {
        let now = self.started.elapsed();
        let mut state = self.state.lock();
        let State {
            scheduler,
            watchers,
            ..
        } = &mut *state;
        scheduler.commit(now, |id, progress| {
            if progress.done {
                if let Some(watcher) = watchers.remove(&id) {
                    watcher.send_replace(progress);
                }
            } else if let Some(watcher) = watchers.get(&id) {
                watcher.send_replace(progress);
            }
        });
        self.publish(scheduler);
    }

    /// Publishes the changes of the cache; under the lock, so that batches are in order.
    fn publish(&self, scheduler: &mut Scheduler) {
        if let Some(publisher) = &self.publisher {
            publisher.publish(scheduler.take_events());
        }
    }

    fn abort(&self, id: SequenceId) {
        let mut state = self.state.lock();
        state.scheduler.abort(id);
        state.watchers.remove(&id);
        state.aborted += 1;
    }
}

impl Ticket {
    /// Waits until more than `seen` tokens are out or the sequence is done.
    ///
    /// # Errors
    /// `Stopped` when the engine ends first.
    pub(crate) async fn beyond(&mut self, seen: u32) -> Result<Progress, Stopped> {
        match &mut self.state {
            TicketState::Done(progress) => Ok(*progress),
            TicketState::Live(receiver) => {
                let progress = receiver
                    .wait_for(|progress| progress.generated > seen || progress.done)
                    .await;
                progress.map(|progress| *progress).map_err(|_| Stopped)
            }
        }
    }

    /// Waits until the sequence is done.
    ///
    /// # Errors
    /// `Stopped` when the engine ends first.
    pub(crate) async fn done(&mut self) -> Result<Progress, Stopped> {
        self.beyond(u32::MAX).await
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let TicketState::Live(receiver) = &self.state
            && !receiver.borrow().done
        {
            self.core.abort(self.id);
        }
    }
}

fn run_to_end(scheduler: &mut Scheduler, now: Duration) -> Progress {
    let mut last = Progress::default();
    while !last.done && scheduler.plan(now).is_some() {
        scheduler.commit(now, |_, progress| last = progress);
    }
    last
}
