//! Wakes the queue ticker.

use tokio::sync::Notify;

/// See the module. One for all schedulers; a call while the ticker is at work counts.
#[derive(Debug, Default)]
pub(crate) struct QueueWaker(Notify);

impl QueueWaker {
    /// A queue is due sooner than the ticker knows.
    pub(super) fn wake(&self) {
        self.0.notify_one();
    }

    /// Resolves after the next call of [`Self::wake`], or at once if there was one since the last.
    pub(super) async fn woken(&self) {
        self.0.notified().await;
    }
}
