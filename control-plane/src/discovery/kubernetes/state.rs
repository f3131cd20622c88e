//! What the watches of one source share: the index, its status, and the bell that wakes the
//! publisher.

use std::time::Duration;

use kube::{Resource, core::DeserializeGuard, runtime::watcher::Event};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    failure_log::FailureLog,
    index::{Endpoints, FoundEndpoints, ObjectIndex},
    readiness::UsableEndpoints,
    relist::{RelistDiff, RelistOutcome},
    status::{DiscoveryStatus, WatchStatus},
    watch_loop::{WatchError, WatchSink},
};

/// One index and who is interested in it.
#[derive(Debug)]
pub(crate) struct SourceIndex<I> {
    index: Mutex<I>,
    status: watch::Sender<DiscoveryStatus>,
    changed: Notify,
    failures: Mutex<FailureLog>,
}

// === SourceIndex ===

impl<I> SourceIndex<I> {
    pub(crate) fn new(index: I, status: watch::Sender<DiscoveryStatus>) -> Self {
        Self {
            index: Mutex::new(index),
            status,
            changed: Notify::new(),
            failures: Mutex::default(),
        }
    }

    /// Takes in one event of the watch on `kind`. Gives back what it did.
    pub(crate) fn fold<K>(
        &self,
        kind: &'static str,
        relist: &mut RelistDiff<K>,
        event: Event<DeserializeGuard<K>>,
    ) -> RelistOutcome
    where
        I: ObjectIndex<K>,
        K: Resource,
    {
        let outcome = relist.fold(event, &mut *self.index.lock());
        let news = match outcome {
            RelistOutcome::Listing => false,
            // The first list of a kind is news even when it is empty: it completes the picture.
            RelistOutcome::Listed { changed } => self.works(kind) | changed,
            RelistOutcome::Updated { changed } => changed,
        };
        if news {
            self.changed.notify_one();
        }
        outcome
    }

    /// Notes that the watch on `kind` failed; what is known stays.
    pub(crate) fn failed(&self, kind: &'static str, error: &str) {
        let now = Instant::now();
        if self.failures.lock().fails(now) {
            tracing::warn!(
                kind,
                error,
                "watch failed, keeping the last known objects and trying again"
            );
        } else {
            tracing::debug!(kind, error, "watch failed");
        }
        self.with_watch(kind, |watch| {
            watch.fails(error, now);
            true
        });
    }

    fn works(&self, kind: &'static str) -> bool {
        let is_news = self.with_watch(kind, WatchStatus::works);
        if self.status.borrow().failure().is_none() && self.failures.lock().works() {
            tracing::info!("watches work again");
        }
        is_news
    }

    fn with_watch(&self, kind: &'static str, edit: impl FnOnce(&mut WatchStatus) -> bool) -> bool {
        self.status.send_if_modified(|status| {
            let watch = status.watches.iter_mut().find(|watch| watch.kind == kind);
            watch.is_some_and(edit)
        })
    }
}

impl<K: Resource, I: ObjectIndex<K>> WatchSink<K> for SourceIndex<I> {
    fn receive(
        &self,
        kind: &'static str,
        relist: &mut RelistDiff<K>,
        event: Event<DeserializeGuard<K>>,
    ) -> RelistOutcome {
        self.fold(kind, relist, event)
    }

    fn report_failure(&self, kind: &'static str, error: &WatchError) -> Duration {
        self.failed(kind, &error.to_string());
        Duration::ZERO
    }
}

impl<I: Endpoints> SourceIndex<I> {
    /// Waits until something changed since the last call, however often.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The current set, or `None` until every kind was listed.
    pub(crate) fn found(&self) -> Option<FoundEndpoints> {
        let synced = self.status.borrow().synced();
        synced.then(|| self.index.lock().endpoints())
    }

    /// Notes what the sink got.
    pub(crate) fn published(&self, usable: &UsableEndpoints) {
        let &UsableEndpoints {
            ref set,
            doubted,
            left_out,
        } = usable;
        self.status.send_modify(|status| {
            if left_out > status.left_out {
                tracing::warn!(
                    left_out,
                    "skipping ready endpoints: unknown port, or invalid role label"
                );
            }
            if doubted > status.doubted {
                tracing::warn!(
                    doubted,
                    "panic threshold reached: keeping endpoints that Kubernetes reports not ready"
                );
            }
            if set.is_doubtful && status.endpoints.is_none() {
                tracing::warn!(
                    ready = set.endpoints.len(),
                    "fewer than half of the endpoints are ready at the first list: \
                     for three minutes proxies keep those that they have"
                );
            }
            status.endpoints = Some(set.endpoints.len());
            status.doubted = doubted;
            status.left_out = left_out;
        });
    }
}
