//! Follows one kind: watch, and after any failure wait a little and list again.
//!
//! Invariants:
//! * a list makes progress within [`Pace::list`], or it is given up and started again;
//! * after any failure the kind is listed again, so that nothing depends on how a server numbers
//!   its versions across a restart or a restored backup, and so that success is always observed;
//! * the delay between failures grows, and shrinks only after the watch has held for a while: a
//!   server that lists well and then breaks every watch is not hammered.
//!
//! A watch that the server ends in the ordinary way (its time is up) is resumed by the watcher
//! without a list.

use std::{
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    pin::pin,
    time::Duration,
};

use futures::{Stream, StreamExt};
use hermes_core::backoff::Backoff;
use kube::{
    Resource,
    core::DeserializeGuard,
    runtime::watcher::{self, Event},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::relist::{RelistDiff, RelistOutcome};

/// The first pause after a failure, and the longest, short enough to be right again within 5 s
/// after an API server is back.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));

/// How long a watch must hold before its earlier failures are forgotten.
const HOLDS: Duration = Duration::from_secs(10);

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Longest silence while a list is under way.
    pub(crate) list: Duration,
    /// How often everything is listed again although the watch works.
    pub(crate) resync: Duration,
}

/// Receives what a watch reports.
pub(crate) trait WatchSink<K: Resource> {
    /// Takes in one event of the watch on `kind`. Gives back what it did.
    fn receive(
        &self,
        kind: &'static str,
        relist: &mut RelistDiff<K>,
        event: Event<DeserializeGuard<K>>,
    ) -> RelistOutcome;

    /// Notes that the watch on `kind` failed; what is known stays. Gives back how long to wait at
    /// least before it is tried again.
    fn report_failure(&self, kind: &'static str, error: &WatchError) -> Duration;
}

/// Why a watch has ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchError {
    /// The API server refused it, or could not be reached.
    #[error(transparent)]
    Api(#[from] watcher::Error),
    /// It ended by itself.
    #[error("the watch ended")]
    Ended,
    /// A list made no progress.
    #[error("no progress listing {kind} within {limit:?}")]
    Stuck {
        /// What was listed.
        kind: &'static str,
        /// How long that may take.
        limit: Duration,
    },
}

// === WatchError ===

impl WatchError {
    /// Whether the API server does not have the kind.
    pub(crate) fn is_not_found(&self) -> bool {
        use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
        let Self::Api(InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error)) =
            self
        else {
            return false;
        };
        matches!(error, kube::Error::Api(status) if status.code == 404)
    }
}

/// Follows one kind for ever. `open` begins a watch with a fresh list.
pub(crate) async fn follow<K, S>(
    sink: &impl WatchSink<K>,
    kind: &'static str,
    pace: Pace,
    mut open: impl FnMut() -> S,
) -> Infallible
where
    K: Resource,
    S: Stream<Item = watcher::Result<Event<DeserializeGuard<K>>>>,
{
    let mut relist = RelistDiff::default();
    let mut backoff = Backoff::new(BACKOFF, RandomState::new().hash_one(kind));
    loop {
        let began = Instant::now();
        let Err(error) = session(sink, kind, pace, &mut relist, open()).await else {
            continue;
        };
        if began.elapsed() > HOLDS {
            backoff.reset();
        }
        let least = sink.report_failure(kind, &error);
        sleep(backoff.next_pause().max(least)).await;
    }
}

/// Lists and watches until a failure, or until the next periodic list.
async fn session<K: Resource>(
    sink: &impl WatchSink<K>,
    kind: &'static str,
    pace: Pace,
    relist: &mut RelistDiff<K>,
    events: impl Stream<Item = watcher::Result<Event<DeserializeGuard<K>>>>,
) -> Result<(), WatchError> {
    let mut events = pin!(events);
    let mut listing = true;
    let mut deadline = Instant::now() + pace.list;
    loop {
        let event = match timeout_at(deadline, events.next()).await {
            Ok(Some(event)) => event?,
            Ok(None) => return Err(WatchError::Ended),
            Err(_) if listing => {
                let limit = pace.list;
                return Err(WatchError::Stuck { kind, limit });
            }
            Err(_) => return Ok(()),
        };
        match sink.receive(kind, relist, event) {
            RelistOutcome::Listing => {
                listing = true;
                deadline = Instant::now() + pace.list;
            }
            RelistOutcome::Listed { .. } => {
                listing = false;
                deadline = Instant::now() + pace.resync;
            }
            RelistOutcome::Updated { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests;
