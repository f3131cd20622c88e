//! The tasks of a connection of HTTP/2: one for each stream, which ends when its client does not
//! take its answer.

use std::{
    future::Future,
    sync::{Arc, Weak},
};

use hyper::rt::Executor;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::answer_progress::{AnswerProgress, watched};

tokio::task_local! {
    /// The progress of the answer on the stream whose task this is.
    static STREAM: Arc<AnswerProgress>;
}

/// Owns the tasks: they end with it.
#[derive(Debug, Default)]
pub(super) struct StreamTasks(Arc<Mutex<JoinSet<()>>>);

/// Spawns hyper's streams. Dropping a stream resets it.
#[derive(Clone, Debug)]
pub(super) struct StreamExecutor(Weak<Mutex<JoinSet<()>>>);

impl StreamTasks {
    /// For hyper, whose streams hold it.
    pub(super) fn executor(&self) -> StreamExecutor {
        StreamExecutor(Arc::downgrade(&self.0))
    }
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // Without the owner the connection has ended, and its streams with it.
        let Some(tasks) = self.0.upgrade() else {
            return;
        };
        let mut tasks = tasks.lock();
        while tasks.try_join_next().is_some() {}
        let progress = Arc::new(AnswerProgress::new());
        let scoped = STREAM.scope(Arc::clone(&progress), stream);
        tasks.spawn(async move { watched(scoped, &progress).await });
    }
}

/// The progress of this task's stream; of a connection of HTTP/1, which has no task for it,
/// `connection`.
pub(super) fn progress_or(connection: &Arc<AnswerProgress>) -> Arc<AnswerProgress> {
    STREAM
        .try_with(Arc::clone)
        .unwrap_or_else(|_| Arc::clone(connection))
}
