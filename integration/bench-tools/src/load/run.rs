//! Drives a client through a workload: an open loop, a closed loop, or conversations.
//!
//! Every run is bounded in count, time and concurrency, stops by itself, and can be stopped from
//! outside; what is then in flight is given up and counted as interrupted, or waited for, as the
//! one who stops it likes. Each task it starts ends before it returns.
//!
//! Latency counts from when a request was *meant* to start. In an open loop that is its arrival,
//! even when every slot was taken by then (otherwise a stalled server would delay the requests that
//! would have shown it: "coordinated omission"); in a closed loop it is when its connection came
//! free.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use super::client::{Call, Client};
use super::exchange::Exchange;
use super::report::Report;
use super::tally::Tally;

/// Where a run ends.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Requests started in all.
    pub count: u64,
    /// Time in which requests are started; those in flight are then waited for.
    pub duration: Duration,
    /// Requests in flight at once.
    pub concurrency: usize,
}

/// A year: where the time a run may take cannot be expressed on the clock.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// A run in progress.
#[derive(Clone, Debug)]
pub struct Run {
    client: Arc<Client>,
    tally: Arc<Mutex<Tally>>,
    bounds: Bounds,
    stop: CancellationToken,
    enough: CancellationToken,
    /// Requests that may still be started.
    tickets: Arc<Mutex<u64>>,
    progress: ProgressBar,
    began: Instant,
}

impl Run {
    /// A run that begins now. `stop` ends it early.
    #[must_use]
    pub fn new(client: Client, bounds: Bounds, stop: CancellationToken) -> Self {
        Self {
            client: Arc::new(client),
            tally: Arc::default(),
            bounds,
            stop,
            enough: CancellationToken::new(),
            tickets: Arc::new(Mutex::new(bounds.count)),
            progress: ProgressBar::hidden(),
            began: Instant::now(),
        }
    }

    /// Starts no more requests once `enough` is cancelled, and waits for those in flight.
    #[must_use]
    pub fn until(mut self, enough: CancellationToken) -> Self {
        self.enough = enough;
        self
    }

    /// Shows the progress on standard error, if that is a terminal.
    #[must_use]
    pub fn with_progress(mut self, total: Option<u64>) -> Self {
        let template = match total {
            Some(_) => "{elapsed_precise} {wide_bar} {pos}/{len}  {msg}",
            None => "{elapsed_precise} {spinner} {pos}  {msg}",
        };
        self.progress = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.progress.set_style(style);
        }
        self
    }

    /// Sends each call at its offset from now, whether or not earlier ones were answered.
    pub async fn open(mut self, calls: impl Iterator<Item = (Duration, Call)>) -> Report {
        self.began = Instant::now();
        let slots = Arc::new(Semaphore::new(
            self.bounds.concurrency.clamp(1, Semaphore::MAX_PERMITS),
        ));
        let mut tasks = JoinSet::new();
        let end = self
            .began
            .checked_add(self.bounds.duration)
            .unwrap_or(self.began + LONGEST);
        for (offset, call) in calls.take(usize::try_from(self.bounds.count).unwrap_or(usize::MAX)) {
            let Some(intended) = self.began.checked_add(offset) else {
                break;
            };
            let slot = async {
                sleep_until(intended).await;
                Arc::clone(&slots).acquire_owned().await
            };
            let slot = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = self.enough.cancelled() => break,
                slot = timeout_at(end, slot) => slot,
            };
            let Ok(Ok(slot)) = slot else { break };
            let run = self.clone();
            tasks.spawn(async move {
                run.one(call, intended).await;
                drop(slot);
            });
            while tasks.try_join_next().is_some() {}
        }
        self.finish(tasks).await
    }

    /// Keeps `concurrency` requests in flight, each sent as soon as the one before it has ended,
    /// cycling through `calls`.
    pub async fn closed(mut self, calls: Arc<[Call]>) -> Report {
        self.began = Instant::now();
        let mut tasks = JoinSet::new();
        for worker in 0..self.bounds.concurrency.max(1) {
            let (run, calls) = (self.clone(), Arc::clone(&calls));
            tasks.spawn(async move {
                let mut turns = calls.iter().cycle().skip(worker % calls.len().max(1));
                while let Some(call) = turns.next().filter(|_| run.may_start()) {
                    run.one(call.clone(), Instant::now()).await;
                }
            });
        }
        self.finish(tasks).await
    }

    /// Runs `users` one beside the other, each as its own sequence of requests; `user` gets the run
    /// and its number.
    pub(crate) async fn users<F>(mut self, users: usize, user: impl Fn(Self, usize) -> F) -> Report
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.began = Instant::now();
        let mut tasks = JoinSet::new();
        for number in 0..users {
            tasks.spawn(user(self.clone(), number));
        }
        self.finish(tasks).await
    }

    /// Sends one call and counts it.
    pub(crate) async fn one(&self, call: Call, intended: Instant) -> Exchange {
        self.tally.lock().start();
        let exchange = self.client.send(call, intended).await;
        let mut tally = self.tally.lock();
        tally.add(&exchange);
        let (ok, all) = tally.progress();
        drop(tally);
        if !self.progress.is_hidden() {
            self.progress.set_position(all);
            self.progress.set_message(format!("failed {}", all - ok));
        }
        exchange
    }

    /// What a clone of the run has seen up to now.
    #[must_use]
    pub fn so_far(&self) -> Report {
        self.tally.lock().report(self.began.elapsed())
    }

    /// When the run began.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Waits until `intended`. Returns whether another request may then be started, and counts it.
    pub(crate) async fn reaches(&self, intended: Instant) -> bool {
        let end = self.began.checked_add(self.bounds.duration);
        let intended = end.map_or(intended, |end| end.min(intended));
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = self.enough.cancelled() => false,
            () = sleep_until(intended) => self.may_start(),
        }
    }

    /// Whether there is still time for another request, and one left of their number; counts it.
    fn may_start(&self) -> bool {
        let is_stopped = self.stop.is_cancelled() || self.enough.is_cancelled();
        let mut left = self.tickets.lock();
        let may = *left > 0 && self.began.elapsed() < self.bounds.duration && !is_stopped;
        *left -= u64::from(may);
        may
    }

    async fn finish(self, mut tasks: JoinSet<()>) -> Report {
        let stopped = tokio::select! {
            biased;
            () = self.stop.cancelled() => true,
            () = async { while tasks.join_next().await.is_some() {} } => false,
        };
        if stopped {
            tasks.shutdown().await;
            self.tally.lock().add_interrupted();
        }
        let duration = self.began.elapsed();
        self.progress.finish_and_clear();
        self.tally.lock().report(duration)
    }
}
