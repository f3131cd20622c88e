//! Work that several callers need at the same time is done once.
//!
//! ```text
//!   first  ─join─▶ starts the work ─┐
//!   second ─join─────────────────────┼─▶ one future, polled by every waiter ─▶ each gets a copy of the result
//!   third  ─join─────────────────────┘
//! ```
//!
//! There is no leader: all waiters poll the shared future, so cancelling one does not cancel the
//! others. When all have left, the work is dropped. How long each waits is its own business;
//! finished work is forgotten at once, so what is to be kept is kept elsewhere.

use std::{collections::HashMap, hash::Hash};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use parking_lot::Mutex;

/// Work in progress that can be awaited.
pub(crate) type Flight<T> = Shared<BoxFuture<'static, T>>;

/// Entries at which those of ended work are looked for the first time.
const FIRST_SWEEP: usize = 64;

/// Work in progress, by key. As many entries as there is work that someone waits for, and at most
/// as many again.
pub(crate) struct SingleFlight<K, T> {
    board: Mutex<FlightTable<K, T>>,
}

struct FlightTable<K, T> {
    open: HashMap<K, WeakShared<BoxFuture<'static, T>>>,
    sweep_at: usize,
}

// === SingleFlight ===

impl<K: Copy + Eq + Hash, T: Clone> SingleFlight<K, T> {
    /// The work under `key`, and whether it was under way already. If it was not, `work` is it.
    pub(crate) fn join(
        &self,
        key: K,
        work: impl FnOnce() -> BoxFuture<'static, T>,
    ) -> (Flight<T>, bool) {
        let mut board = self.board.lock();
        // Work that has ended is not joined: its result is as old as its slowest reader.
        let under_way = board
            .open
            .get(&key)
            .and_then(WeakShared::upgrade)
            .filter(|flight| flight.peek().is_none());
        if let Some(flight) = under_way {
            return (flight, true);
        }
        let flight = work().shared();
        if let Some(weak) = flight.downgrade() {
            board.open.insert(key, weak);
        }
        board.sweep();
        (flight, false)
    }
}

impl<K, T> Default for SingleFlight<K, T> {
    fn default() -> Self {
        Self {
            board: Mutex::new(FlightTable {
                open: HashMap::new(),
                sweep_at: FIRST_SWEEP,
            }),
        }
    }
}

impl<K, T> std::fmt::Debug for SingleFlight<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SingleFlight")
            .field("open", &self.board.lock().open.len())
            .finish()
    }
}

// === FlightTable ===

impl<K: Eq + Hash, T: Clone> FlightTable<K, T> {
    /// Drops the entries of ended work, each time the board has doubled.
    fn sweep(&mut self) {
        if self.open.len() < self.sweep_at {
            return;
        }
        self.open
            .retain(|_, weak| weak.upgrade().is_some_and(|flight| flight.peek().is_none()));
        self.sweep_at = (self.open.len() * 2).max(FIRST_SWEEP);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::sync::Notify;

    use super::*;

    /// Work that ends on a signal, and counts how often it was begun.
    struct CountedWork {
        begun: AtomicUsize,
        go: Notify,
    }

    fn work() -> Arc<CountedWork> {
        Arc::new(CountedWork {
            begun: AtomicUsize::new(0),
            go: Notify::new(),
        })
    }

    fn begin(work: &Arc<CountedWork>) -> BoxFuture<'static, usize> {
        let work = Arc::clone(work);
        async move {
            let count = work.begun.fetch_add(1, Ordering::Relaxed);
            work.go.notified().await;
            count
        }
        .boxed()
    }

    #[tokio::test]
    async fn who_asks_for_the_same_while_it_is_under_way_gets_the_same_result() {
        let (flights, work) = (SingleFlight::default(), work());
        let (first, joined) = flights.join(7, || begin(&work));
        let (second, also) = flights.join(7, || begin(&work));
        assert_eq!((joined, also), (false, true));
        work.go.notify_one();
        assert_eq!(tokio::join!(first, second), (0, 0));
    }

    #[tokio::test]
    async fn cancelling_the_first_waiter_does_not_cancel_the_others() {
        let (flights, work) = (SingleFlight::default(), work());
        let (mut first, _) = flights.join(7, || begin(&work));
        assert!((&mut first).now_or_never().is_none(), "it has begun");
        let (second, _) = flights.join(7, || begin(&work));
        drop(first);
        work.go.notify_one();
        assert_eq!(second.await, 0);
        assert_eq!(work.begun.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn work_without_waiters_is_dropped_and_finished_work_is_not_joined() {
        let (flights, work) = (SingleFlight::default(), work());
        let (mut first, _) = flights.join(7, || begin(&work));
        assert!((&mut first).now_or_never().is_none());
        drop(first);
        let (second, joined) = flights.join(7, || begin(&work));
        assert!(!joined);
        work.go.notify_one();
        assert_eq!(second.clone().await, 1);
        let (_third, joined) = flights.join(7, || begin(&work));
        assert!(!joined, "its result would be old");
    }

    #[test]
    fn entries_of_ended_work_do_not_pile_up() {
        let flights: SingleFlight<usize, ()> = SingleFlight::default();
        for key in 0..100 * FIRST_SWEEP {
            let _left = flights.join(key, || futures::future::pending().boxed());
        }
        assert!(flights.board.lock().open.len() <= FIRST_SWEEP);
    }
}
