//! What a test sees of the engines of pairs that run in its process.

use std::sync::Arc;

use parking_lot::Mutex;

use super::engine::PairEngine;

/// The engines that were started with one [`PairConfig`](super::PairConfig): what happened at all
/// of them. They share nothing else; they talk over sockets.
#[derive(Debug, Default)]
pub struct PairNetwork(Mutex<Vec<Arc<PairEngine>>>);

impl PairNetwork {
    pub(crate) fn add(&self, engine: &Arc<PairEngine>) {
        self.0.lock().push(Arc::clone(engine));
    }

    /// What broke the protocol so far: a kind for each time.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let engines = self.0.lock();
        let counts = engines.iter().flat_map(|engine| engine.violations.all());
        let kinds = counts.flat_map(|(violation, count)| {
            std::iter::repeat_n(violation.kind().to_owned(), count as usize)
        });
        kinds.collect()
    }

    /// KV caches that prefill engines keep for decode engines now.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.sum(|engine| engine.handoffs().kept)
    }

    /// Handoffs that were taken over.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.sum(|engine| engine.handoffs().taken as usize)
    }

    /// Decode legs that wait in a room.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.sum(|engine| engine.handoffs().waiting)
    }

    /// Decode legs whose KV cache is on its way.
    #[must_use]
    pub fn receiving(&self) -> usize {
        self.sum(|engine| engine.handoffs().receiving)
    }

    fn sum(&self, figure: impl Fn(&PairEngine) -> usize) -> usize {
        self.0.lock().iter().map(|engine| figure(engine)).sum()
    }
}
