//! A few threads for work that would hold up everything else: half of the cores, and a bounded line
//! before them.

use std::{
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{sync::Semaphore, task::spawn_blocking};

use super::Failure;

/// Pieces of work that may wait for a thread; over it they are turned away.
pub const MAX_WAITING: usize = 256;

/// Most threads of one workshop.
const MAX_THREADS: usize = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct TokenizerWorkers {
    threads: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Counts one that waits, until it has a thread or goes away.
struct QueuedJob<'a>(&'a AtomicUsize);

// === TokenizerWorkers ===

impl TokenizerWorkers {
    /// With half of the cores: choices and streams need the other half.
    pub(super) fn new() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self::with((cores / 2).clamp(1, MAX_THREADS))
    }

    fn with(threads: usize) -> Self {
        Self {
            threads: Arc::new(Semaphore::new(threads)),
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
        // It is never closed.
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
