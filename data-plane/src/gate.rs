//! How many requests a proxy serves at once.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// Counts requests from their admission to the last byte of their answers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<AtomicU32>);

/// One request inside; leaves when dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<AtomicU32>);

impl Gate {
    /// Lets a request in while fewer than `limit` are inside. The limit may change from call to call.
    pub(crate) fn enter(&self, limit: u32) -> Option<Permit> {
        let inside = self.0.fetch_add(1, Ordering::Relaxed);
        // Counted already: dropped again if it was one too many.
        let permit = Permit(Arc::clone(&self.0));
        (inside < limit).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_its_holder_leaves() {
        let gate = Gate::default();
        let first = gate.enter(2).expect("free");
        let _second = gate.enter(2).expect("free");
        assert!(gate.enter(2).is_none());
        drop(first);
        assert!(gate.enter(2).is_some());
    }
}
