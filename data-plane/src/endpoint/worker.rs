//! Which worker this thread is: connections to endpoints are kept by worker.

use std::cell::Cell;

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// Which worker this thread is; 0 for every thread that is none.
pub(crate) fn index() -> usize {
    INDEX.get()
}

/// This thread is that worker from now on.
pub(crate) fn set_index(index: usize) {
    INDEX.set(index);
}
