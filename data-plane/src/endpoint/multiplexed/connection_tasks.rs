//! The tasks of one connection over HTTP/2, which end with it.
//!
//! hyper has one for the socket, and one for each request whose body is not sent yet. That one waits
//! for as long as the server leaves no room for the body, even after the answer was dropped.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::Waker,
    time::Duration,
};

use futures::task::AtomicWaker;
use hyper::rt::Executor;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long the tasks have to close the connection properly.
const CLOSING: Duration = Duration::from_secs(1);

/// Where hyper starts them.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionTasks {
    /// They end by [`Self::end`], and not by being dropped: closing takes a moment.
    running: TaskTracker,
    ended: CancellationToken,
    /// Of the opening of the connection, which waits for progress.
    waiting: Arc<AtomicWaker>,
}

impl ConnectionTasks {
    /// Ends them, soon.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Runs the one that takes requests. It ends at once, upon which hyper closes the connection.
    pub(super) fn drive(&self, driver: impl Future<Output = ()> + Send + 'static) {
        let ended = self.ended.clone();
        let driving = async move { ended.run_until_cancelled_owned(driver).await };
        self.running.spawn(driving);
    }

    /// Wakes this one after the next progress of a task.
    pub(super) fn wake_at_progress(&self, waker: &Waker) {
        self.waiting.register(waker);
    }
}

impl<F> Executor<F> for ConnectionTasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let (ended, waiting) = (self.ended.clone(), Arc::clone(&self.waiting));
        self.running.spawn(async move {
            let mut task = pin!(task);
            let mut task = pin!(poll_fn(|cx| {
                let polled = task.as_mut().poll(cx);
                waiting.wake();
                polled
            }));
            if ended.run_until_cancelled(task.as_mut()).await.is_none() {
                let _closed = timeout(CLOSING, task).await;
            }
        });
    }
}
