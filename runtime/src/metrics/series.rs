//! Series that are removed with their subject, such as a pool or a model.
//!
//! ```text
//!   HandleCache::get(pool) ──▶ Arc<Handles> ──┬─ view, requests in flight ─── all dropped ──▶ series removed
//!                              same for all ──┘
//! ```
//!
//! A family keeps every series that was ever created in it. Names come and go (adapters are loaded
//! and unloaded), so a process that never removed a series would grow without bound.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    ops::Deref,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use prometheus_client::metrics::family::{Family, MetricConstructor};

/// Metric handles by subject. Callers that ask for the same subject share its handles.
pub struct HandleCache<K: Hash + Eq, T> {
    live: Arc<Live<K, T>>,
}

/// The handles of one subject. Their series are removed when the last clone of the `Arc` is
/// dropped.
pub struct Handles<T, K: Hash + Eq = Arc<str>> {
    handles: T,
    key: K,
    series: SeriesScope,
    live: Arc<Live<K, T>>,
}

/// Series to remove together.
#[derive(Default)]
pub struct SeriesScope {
    removals: Vec<Box<dyn Fn() + Send + Sync>>,
}

type Live<K, T> = Mutex<HashMap<K, Weak<Handles<T, K>>>>;

// === HandleCache ===

impl<K: Hash + Eq + Clone, T> HandleCache<K, T> {
    /// The handles of `key`, which `resolve` makes if there are none.
    pub fn get(&self, key: &K, resolve: impl FnOnce(&mut SeriesScope) -> T) -> Arc<Handles<T, K>> {
        let mut live = self.live.lock();
        if let Some(handles) = live.get(key).and_then(Weak::upgrade) {
            return handles;
        }
        let mut series = SeriesScope::default();
        let handles = Arc::new(Handles {
            handles: resolve(&mut series),
            key: key.clone(),
            series,
            live: Arc::clone(&self.live),
        });
        live.insert(key.clone(), Arc::downgrade(&handles));
        handles
    }
}

impl<K: Hash + Eq, T> Clone for HandleCache<K, T> {
    fn clone(&self) -> Self {
        Self {
            live: Arc::clone(&self.live),
        }
    }
}

impl<K: Hash + Eq, T> Default for HandleCache<K, T> {
    fn default() -> Self {
        Self {
            live: Arc::default(),
        }
    }
}

impl<K: Hash + Eq, T> fmt::Debug for HandleCache<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandleCache").finish_non_exhaustive()
    }
}

// === Handles ===

impl<T, K: Hash + Eq> Deref for Handles<T, K> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.handles
    }
}

impl<T, K: Hash + Eq> Drop for Handles<T, K> {
    fn drop(&mut self) {
        let mut live = self.live.lock();
        // Another thread may have resolved the same series again since the last clone was dropped.
        let ended = live
            .get(&self.key)
            .is_some_and(|handles| handles.strong_count() == 0);
        if ended {
            live.remove(&self.key);
            self.series.remove();
        }
    }
}

impl<T: fmt::Debug, K: Hash + Eq> fmt::Debug for Handles<T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.handles.fmt(f)
    }
}

// === SeriesScope ===

impl SeriesScope {
    /// The handle of one series of `family`, created at zero if it is not there.
    pub fn handle<L, M, C>(&mut self, family: &Family<L, M, C>, labels: L) -> M
    where
        L: Clone + Hash + Eq + Send + Sync + 'static,
        M: Clone + Send + Sync + 'static,
        C: MetricConstructor<M> + Clone + Send + Sync + 'static,
    {
        let handle = family.get_or_create_owned(&labels);
        let family = family.clone();
        self.removals.push(Box::new(move || {
            family.remove(&labels);
        }));
        handle
    }

    fn remove(&self) {
        self.removals.iter().for_each(|remove| remove());
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{metrics::counter::Counter, registry::Registry};

    use super::*;
    use crate::metrics::{Exposition, family};

    type Labels = [(&'static str, String); 1];

    fn counter_of(
        cache: &HandleCache<String, Counter>,
        family: &Family<Labels, Counter>,
        pool: &str,
    ) -> Arc<Handles<Counter, String>> {
        cache.get(&pool.to_owned(), |series| {
            series.handle(family, [("pool", pool.to_owned())])
        })
    }

    #[test]
    fn series_are_shared_until_the_last_handle_is_dropped() {
        let mut registry = Registry::default();
        let requests = family(&mut registry, "requests", "Requests");
        let cache = HandleCache::default();
        let text = || Exposition::Prometheus.encode(&registry).expect("encodes");

        let first = counter_of(&cache, &requests, "chat");
        first.inc();
        let second = counter_of(&cache, &requests, "chat");
        second.inc();
        drop(first);
        assert!(text().contains("requests_total{pool=\"chat\"} 2\n"));
        drop(second);
        assert!(!text().contains("chat"));

        counter_of(&cache, &requests, "chat").inc();
        let again = counter_of(&cache, &requests, "chat");
        assert_eq!(again.get(), 0, "a subject that comes back starts at zero");
    }
}
