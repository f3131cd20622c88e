//! The index of this thread among the workers: idle connections are kept by worker.

use std::cell::Cell;

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
