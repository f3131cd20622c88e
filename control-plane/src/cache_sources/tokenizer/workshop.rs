//! A few threads for work that would hold up everything else: half of the cores, for all pools
//! together, and a bounded line of each pool before them.
//!
//! Each pool has at most as many places in the line before the threads as there are threads, so
//! that long prompts of one pool delay those of another by one round.

use std::{
    num::NonZero,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{sync::Semaphore, task::spawn_blocking};

use super::Failure;

/// Pieces of work that may wait for a thread; over it they are turned away.
pub const MAX_WAITING: usize = 256;

/// Most threads of the process.
const MAX_THREADS: usize = 8;

/// The threads of the process: half of the cores, as choices and streams need the other half.
static THREADS: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(process_threads())));

/// See the module.
#[derive(Debug)]
pub(super) struct TokenizerWorkers {
    /// Shared by all pools, and fair: first come, first served.
    threads: Arc<Semaphore>,
    /// This pool's places in the line before the threads, and on them.
    places: Semaphore,
    waiting: AtomicUsize,
}

/// Counts one that waits, until it has a thread or goes away.
struct QueuedJob<'a>(&'a AtomicUsize);

// === TokenizerWorkers ===

impl TokenizerWorkers {
    /// Those of one pool, on the threads of the process.
    pub(super) fn new() -> Self {
        Self::on(Arc::clone(&THREADS), process_threads())
    }

    fn on(threads: Arc<Semaphore>, places: usize) -> Self {
        Self {
            threads,
            places: Semaphore::new(places),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Does `work` on a thread of its own, when one is free. Work that has begun goes on when its
    /// caller leaves; it has to watch the time itself.
    ///
    /// # Errors
    /// [`Failure::Saturated`] when too much waits, [`Failure::Tokenizer`] when `work` panics.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let waiting = QueuedJob::begin(&self.waiting).ok_or(Failure::Saturated)?;
        // They are never closed.
        let _place = self
            .places
            .acquire()
            .await
            .map_err(|_| Failure::Saturated)?;
        let thread = Arc::clone(&self.threads)
            .acquire_owned()
            .await
            .map_err(|_| Failure::Saturated)?;
        drop(waiting);
        let done = spawn_blocking(move || {
            let _thread = thread;
            work()
        });
        // A panic was reported where it happened, and costs this piece of work alone.
        done.await.map_err(|_| Failure::Tokenizer)
    }
}

fn process_threads() -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    (cores / 2).clamp(1, MAX_THREADS)
}

// === QueuedJob ===

impl<'a> QueuedJob<'a> {
    fn begin(count: &'a AtomicUsize) -> Option<Self> {
        let waiting = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(waiting)
    }
}

impl Drop for QueuedJob<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::{FutureExt, future::join_all};

    use super::*;

    impl TokenizerWorkers {
        /// Of the only pool.
        fn with(threads: usize) -> Self {
            Self::on(Arc::new(Semaphore::new(threads)), threads)
        }
    }

    #[tokio::test]
    async fn pools_share_the_threads_and_take_turns() {
        let threads = Arc::new(Semaphore::new(1));
        let (one, other) = (
            TokenizerWorkers::on(Arc::clone(&threads), 1),
            TokenizerWorkers::on(threads, 1),
        );
        let (go, gate) = mpsc::sync_channel::<()>(0);
        let mut first = Box::pin(one.run(move || gate.recv().is_ok()));
        assert!((&mut first).now_or_never().is_none(), "it has the thread");
        let (done, order) = mpsc::sync_channel(3);
        let mut line = Vec::new();
        for (pool, name) in [(&one, "one"), (&one, "one"), (&other, "other")] {
            let done = done.clone();
            let mut work = Box::pin(pool.run(move || done.send(name).is_ok()));
            assert!((&mut work).now_or_never().is_none(), "no thread is free");
            line.push(work);
        }
        go.send(()).expect("the first waits for it");
        assert_eq!(first.await, Ok(true));
        assert!(join_all(line).await.iter().all(|done| *done == Ok(true)));
        drop(done);
        let order: Vec<_> = order.iter().collect();
        assert_eq!(order.iter().position(|name| *name == "other"), Some(0));
    }

    #[tokio::test]
    async fn one_line_of_bounded_length_stands_before_the_threads() {
        let workshop = TokenizerWorkers::with(1);
        let (go, gate) = mpsc::sync_channel::<()>(0);
        let first = workshop.run(move || gate.recv().is_ok());
        let mut first = Box::pin(first);
        assert!((&mut first).now_or_never().is_none(), "it has the thread");
        let mut line: Vec<_> = (0..MAX_WAITING)
            .map(|_| Box::pin(workshop.run(|| ())))
            .collect();
        assert!(line.iter_mut().all(|waits| waits.now_or_never().is_none()));
        assert_eq!(workshop.run(|| ()).await, Err(Failure::Saturated));
        line.pop();
        assert!(
            Box::pin(workshop.run(|| ())).now_or_never().is_none(),
            "who leaves makes room"
        );
        go.send(()).expect("the first waits for it");
        assert_eq!(first.await, Ok(true));
        assert!(join_all(line).await.iter().all(Result::is_ok));
    }

    #[tokio::test]
    async fn a_panic_costs_one_piece_of_work() {
        let workshop = TokenizerWorkers::with(1);
        let buggy = || -> u8 { panic!("a bug of a tokenizer") };
        assert_eq!(workshop.run(buggy).await, Err(Failure::Tokenizer));
        assert_eq!(workshop.run(|| 7).await, Ok(7));
    }
}
