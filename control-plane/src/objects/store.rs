//! What the watches have found so far, and which of them have listed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::{
    core::{DeserializeGuard, DynamicObject, ObjectMeta},
    runtime::watcher::Event,
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{catalog::ObjectCatalog, kind::ObjectKind, metrics::ObjectMetrics};
use crate::discovery::{FailureLog, ObjectIndex, RelistDiff, RelistOutcome, WatchError, WatchSink};

/// The pause before a definition that is not installed is looked for again.
pub(crate) const ABSENT: Duration = Duration::from_secs(15);

/// How often in a row a definition must be missing for its objects to be forgotten.
const MISSES: u32 = 2;

/// The objects of all watches.
#[derive(Debug)]
pub(crate) struct ObjectStore {
    catalog: Mutex<ObjectCatalog>,
    watches: Mutex<BTreeMap<WatchKey, WatchState>>,
    changed: Notify,
    failures: Mutex<FailureLog>,
    metrics: ObjectMetrics,
}

/// One watch: a kind, in a namespace or in all.
pub(crate) type WatchKey = (ObjectKind, Option<Arc<str>>);

/// How a watch is doing.
#[derive(Clone, Debug, Default)]
struct WatchState {
    /// Its objects were listed, or there is no such kind.
    is_settled: bool,
    /// Why it does not work at the moment.
    failure: Option<Arc<str>>,
    /// How often in a row there was no such kind.
    misses: u32,
}

/// What one watch reports to.
#[derive(Debug)]
pub(crate) struct KindSink<'a> {
    pub(crate) store: &'a ObjectStore,
    pub(crate) watch: WatchKey,
}

/// One kind of the catalog while an event is taken in.
struct KindIndex<'a> {
    catalog: &'a mut ObjectCatalog,
    kind: ObjectKind,
}

// === ObjectStore ===

impl ObjectStore {
    /// Nothing yet, of these watches.
    pub(crate) fn new(watches: &[WatchKey], metrics: ObjectMetrics) -> Self {
        let states = watches
            .iter()
            .map(|watch| (watch.clone(), WatchState::default()));
        Self {
            catalog: Mutex::default(),
            watches: Mutex::new(states.collect()),
            changed: Notify::new(),
            failures: Mutex::default(),
            metrics,
        }
    }

    /// Waits until something changed since the last call, however often.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Reads the objects, once every watch has listed.
    ///
    /// # Errors
    /// What is still missing, for people.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&ObjectCatalog) -> T) -> Result<T, String> {
        let watches = self.watches.lock();
        let Some(((kind, namespace), state)) = watches.iter().find(|(_, state)| !state.is_settled)
        else {
            drop(watches);
            return Ok(read(&self.catalog.lock()));
        };
        let place = namespace.as_deref().map_or_else(
            || "in all namespaces".to_owned(),
            |namespace| format!("in the namespace {namespace}"),
        );
        let why = state.failure.as_deref().unwrap_or("no answer yet");
        Err(format!(
            "{} {place} are not listed: {why}",
            kind.definition()
        ))
    }

    /// Wakes the reader although nothing changed that it reads: another version of an object may be
    /// known.
    pub(crate) fn read_again(&self) {
        self.changed.notify_one();
    }

    /// Edits the state of a watch; wakes the reader if that is news.
    fn with_watch(&self, watch: &WatchKey, edit: impl FnOnce(&mut WatchState) -> bool) {
        let is_news = self.watches.lock().get_mut(watch).is_some_and(edit);
        if is_news {
            self.changed.notify_one();
        }
    }

    /// Notes that a watch has listed.
    fn works(&self, watch: &WatchKey) {
        self.with_watch(watch, |state| {
            let is_first = !std::mem::replace(&mut state.is_settled, true);
            (state.failure, state.misses) = (None, 0);
            is_first
        });
        let works = (self.watches.lock().values()).all(|state| state.failure.is_none());
        if works && self.failures.lock().works() {
            tracing::info!("watches of objects work again");
        }
    }

    /// Notes that there is no such kind. Its objects are gone with it, unless the API server only
    /// starts.
    fn is_absent(&self, watch: &WatchKey) {
        let (kind, namespace) = watch;
        let mut misses = 0;
        self.with_watch(watch, |state| {
            let is_first = !std::mem::replace(&mut state.is_settled, true);
            state.failure = None;
            state.misses = state.misses.saturating_add(1);
            misses = state.misses;
            is_first
        });
        if misses >= MISSES && self.catalog.lock().clear(*kind, namespace.as_deref()) {
            tracing::info!(
                definition = kind.definition(),
                "definition is gone with its objects"
            );
            self.changed.notify_one();
        }
    }

    fn fails(&self, watch: &WatchKey, error: &WatchError) {
        let (definition, error) = (watch.0.definition(), error.to_string());
        self.metrics.watch_failed(watch.0);
        if self.failures.lock().fails(Instant::now()) {
            tracing::warn!(
                definition,
                error,
                "watch failed, keeping the last known objects and trying again"
            );
        } else {
            tracing::debug!(definition, error, "watch failed");
        }
        self.with_watch(watch, |state| {
            state.failure = Some(error.into());
            !state.is_settled
        });
    }
}

// === KindSink ===

impl WatchSink<DynamicObject> for KindSink<'_> {
    fn receive(
        &self,
        _kind: &'static str,
        relist: &mut RelistDiff<DynamicObject>,
        event: Event<DeserializeGuard<DynamicObject>>,
    ) -> RelistOutcome {
        let outcome = relist.fold(
            event,
            &mut KindIndex {
                catalog: &mut self.store.catalog.lock(),
                kind: self.watch.0,
            },
        );
        let changed = match outcome {
            RelistOutcome::Listing => false,
            RelistOutcome::Listed { changed } => {
                self.store.works(&self.watch);
                changed
            }
            RelistOutcome::Updated { changed } => changed,
        };
        if changed {
            self.store.changed.notify_one();
        }
        outcome
    }

    fn report_failure(&self, _kind: &'static str, error: &WatchError) -> Duration {
        if error.is_not_found() {
            self.store.is_absent(&self.watch);
            return ABSENT;
        }
        self.store.fails(&self.watch, error);
        Duration::ZERO
    }
}

// === KindIndex ===

impl ObjectIndex<DynamicObject> for KindIndex<'_> {
    fn key(&self, metadata: &ObjectMeta) -> String {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        format!("{}/{}", text(&metadata.namespace), text(&metadata.name))
    }

    fn apply(&mut self, object: DynamicObject) -> bool {
        self.catalog.apply(self.kind, &object)
    }

    fn delete(&mut self, key: &str) -> bool {
        let (namespace, name) = key.split_once('/').unwrap_or_default();
        self.catalog.delete(self.kind, namespace, name)
    }
}

#[cfg(test)]
mod tests;
