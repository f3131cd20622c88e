//! The threads that serve clients. What belongs to one of them and is used from elsewhere is found
//! by the thread's index (idle connections, Score streams) or its runtime.

use std::cell::Cell;

use futures::{FutureExt, future::Shared};
use tokio::{runtime, sync::oneshot};

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// The index of this thread's worker; 0 on a thread that is none.
pub(crate) fn index() -> usize {
    INDEX.get()
}

/// Sets the index of this thread's worker.
pub(crate) fn set_index(index: usize) {
    INDEX.set(index);
}

/// The runtime of a worker's thread, for tasks whose sockets belong to that thread.
#[derive(Clone, Debug)]
pub(crate) struct WorkerRuntime(Shared<oneshot::Receiver<runtime::Handle>>);

impl WorkerRuntime {
    /// A runtime that has not started, and where its thread publishes it.
    pub(crate) fn pending() -> (oneshot::Sender<runtime::Handle>, Self) {
        let (started, runtime) = oneshot::channel();
        (started, Self(runtime.shared()))
    }

    /// The runtime, once its thread has started; `None` if the thread could not start.
    pub(crate) async fn handle(&self) -> Option<runtime::Handle> {
        self.0.clone().await.ok()
    }
}
