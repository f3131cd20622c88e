//! The waker of a connection's driver, which does not wake a task that is polling the driver.
//!
//! hyper connects the halves of a connection with wakers: reading a piece of the body wakes the
//! driver, which has room for the next one then. Both halves are polled by one task, so such a wake
//! would make the runtime poll a task again that has just done what it was woken for. During a poll
//! wakes are only recorded, and the poll goes on until there is none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

/// Rounds of one poll, at most. A driver that is woken each time, as one is whose share of the
/// thread is used up, gets its next round from the runtime.
const ROUNDS: usize = 3;

/// Outside a poll: a wake wakes the task.
const RESTING: u8 = 0;
/// In a poll: a wake is recorded.
const POLLING: u8 = 1;
/// In a poll, and woken.
const WOKEN: u8 = 2;

/// See the module. One for each connection, whichever tasks use it.
pub(super) struct DriverWaker {
    wakes: Arc<DriverWakes>,
    /// Of `wakes`: the same for each poll, so that it is registered once.
    waker: Waker,
}

#[derive(Default)]
struct DriverWakes {
    state: AtomicU8,
    task: AtomicWaker,
}

impl DriverWaker {
    pub(super) fn new() -> Self {
        let wakes = Arc::new(DriverWakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        Self { wakes, waker }
    }

    /// Polls in rounds, with a context for the driver, until there is a result or nothing woke the
    /// driver in the meantime. What wakes it from then on wakes the task of `cx`.
    ///
    /// Wakes during a poll that has a result are dropped: who uses a connection polls it again, and
    /// each poll begins with what may be ready.
    pub(super) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut round: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.wakes.task.register(cx.waker());
        for _ in 0..ROUNDS {
            self.wakes.state.store(POLLING, Ordering::Release);
            let result = round(&mut Context::from_waker(&self.waker));
            let before = self.wakes.state.swap(RESTING, Ordering::AcqRel);
            if result.is_ready() || before == POLLING {
                return result;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Wake for DriverWakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let recorded =
            self.state
                .compare_exchange(POLLING, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        if recorded == Err(RESTING) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// A task that counts how often it is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Task {
        fn wakes(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_wake_during_a_poll_repeats_it_and_wakes_no_task() {
        let (task, driver) = (Arc::new(Task::default()), DriverWaker::new());
        let waker = Waker::from(Arc::clone(&task));
        let mut rounds = 0;
        let polled = driver.poll(&mut Context::from_waker(&waker), |cx| {
            rounds += 1;
            if rounds == 1 {
                cx.waker().wake_by_ref();
            }
            Poll::<()>::Pending
        });
        assert!(polled.is_pending());
        assert_eq!((rounds, task.wakes()), (2, 0));
    }

    #[test]
    fn a_wake_after_a_poll_wakes_the_task_that_polled_last() {
        let (first, last) = (Arc::new(Task::default()), Arc::new(Task::default()));
        let driver = DriverWaker::new();
        let mut kept = None;
        for task in [&first, &last] {
            let waker = Waker::from(Arc::clone(task));
            let _ = driver.poll(&mut Context::from_waker(&waker), |cx| {
                kept = Some(cx.waker().clone());
                Poll::<()>::Pending
            });
        }
        kept.expect("it was polled").wake();
        assert_eq!((first.wakes(), last.wakes()), (0, 1));
    }

    #[test]
    fn a_driver_that_always_wakes_itself_leaves_the_thread_to_others() {
        let (task, driver) = (Arc::new(Task::default()), DriverWaker::new());
        let waker = Waker::from(Arc::clone(&task));
        let mut rounds = 0;
        let polled = driver.poll(&mut Context::from_waker(&waker), |cx| {
            rounds += 1;
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert!(polled.is_pending());
        assert_eq!((rounds, task.wakes()), (ROUNDS, 1));
    }

    #[test]
    fn a_result_ends_the_poll() {
        let driver = DriverWaker::new();
        let polled = driver.poll(&mut Context::from_waker(Waker::noop()), |cx| {
            cx.waker().wake_by_ref();
            Poll::Ready(7)
        });
        assert_eq!(polled, Poll::Ready(7));
    }
}
