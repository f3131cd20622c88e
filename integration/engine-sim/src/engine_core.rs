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

/// The memory of a sequence that has finished; it is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct HeldBlocks {
    core: Arc<EngineCore>,
    id: SequenceId,
}

/// A claim on one running sequence.
#[derive(Debug)]
pub(crate) struct Ticket {
    core: Arc<EngineCore>,
    id: SequenceId,
    state: TicketState,
    /// Its blocks stay allocated after its end.
    holds: bool,
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

    /// Queues a job. With `holds` its blocks stay allocated after its end, until the ticket or what
    /// [`Ticket::hold`] returns is dropped.
    pub(crate) fn submit(self: &Arc<Self>, job: Job, holds: bool) -> Ticket {
        let now = self.started.elapsed();
        let mut state = self.state.lock();
        let id = state.scheduler.submit(job, now);
        if holds {
            state.scheduler.hold(id);
        }
        if self.config.is_instant() {
            let progress = run_to_end(&mut state, id, now);
            self.publish(&mut state.scheduler);
            // What finds no memory, as others hold it, waits for the task.
            if progress.done {
                return Ticket {
                    core: Arc::clone(self),
                    id,
                    state: TicketState::Done(progress),
                    holds,
                };
            }
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
            holds,
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
        commit_step(&mut state, now, |_, _| {});
        self.publish(&mut state.scheduler);
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

    /// Frees the memory of a sequence that has finished.
    fn release(&self, id: SequenceId) {
        self.state.lock().scheduler.abort(id);
        self.wake.notify_one();
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

    /// The memory of the sequence, which is done, if it was to be held.
    pub(crate) fn hold(&mut self) -> Option<HeldBlocks> {
        let Self { core, id, .. } = self;
        let (core, id) = (Arc::clone(core), *id);
        std::mem::take(&mut self.holds).then_some(HeldBlocks { core, id })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let is_done = match &self.state {
            TicketState::Done(_) => true,
            TicketState::Live(receiver) => receiver.borrow().done,
        };
        if !is_done {
            self.core.abort(self.id);
        } else if self.holds {
            self.core.release(self.id);
        }
    }
}

impl Drop for HeldBlocks {
    fn drop(&mut self) {
        self.core.release(self.id);
    }
}

/// Computes what can be computed, and returns how far this sequence came.
fn run_to_end(state: &mut State, id: SequenceId, now: Duration) -> Progress {
    let mut last = Progress::default();
    while !last.done && state.scheduler.plan(now).is_some() {
        commit_step(state, now, |emitted, progress| {
            if emitted == id {
                last = progress;
            }
        });
    }
    last
}

/// Ends a step: progress goes to those who wait for it, and to `emit`.
fn commit_step(state: &mut State, now: Duration, mut emit: impl FnMut(SequenceId, Progress)) {
    let State {
        scheduler,
        watchers,
        ..
    } = state;
    scheduler.commit(now, |id, progress| {
        emit(id, progress);
        if progress.done {
            if let Some(watcher) = watchers.remove(&id) {
                watcher.send_replace(progress);
            }
        } else if let Some(watcher) = watchers.get(&id) {
            watcher.send_replace(progress);
        }
    });
}
