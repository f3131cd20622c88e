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

use super::{
    index::ObjectIndex,
    relist::{RelistDiff, RelistOutcome},
    state::SourceIndex,
};

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

/// Follows one kind for ever. `open` begins a watch with a fresh list.
pub(crate) async fn follow<K, I, S>(
    state: &SourceIndex<I>,
    kind: &'static str,
    pace: Pace,
    mut open: impl FnMut() -> S,
) -> Infallible
where
    I: ObjectIndex<K>,
    K: Resource<DynamicType = ()>,
    S: Stream<Item = watcher::Result<Event<DeserializeGuard<K>>>>,
{
    let mut relist = RelistDiff::default();
    let mut backoff = Backoff::new(BACKOFF, RandomState::new().hash_one(kind));
    loop {
        let began = Instant::now();
        let Err(error) = session(state, kind, pace, &mut relist, open()).await else {
            continue;
        };
        if began.elapsed() > HOLDS {
            backoff.reset();
        }
        state.failed(kind, &error);
        sleep(backoff.next_pause()).await;
    }
}

/// Lists and watches until a failure, or until the next periodic list.
async fn session<K, I>(
    state: &SourceIndex<I>,
    kind: &'static str,
    pace: Pace,
    relist: &mut RelistDiff<K>,
    events: impl Stream<Item = watcher::Result<Event<DeserializeGuard<K>>>>,
) -> Result<(), String>
where
    I: ObjectIndex<K>,
    K: Resource<DynamicType = ()>,
{
    let mut events = pin!(events);
    let mut listing = true;
    let mut deadline = Instant::now() + pace.list;
    loop {
        let event = match timeout_at(deadline, events.next()).await {
            Ok(Some(event)) => event.map_err(|error| error.to_string())?,
            Ok(None) => return Err("the watch ended".to_owned()),
            Err(_) if listing => {
                return Err(format!("no progress listing {kind} within {:?}", pace.list));
            }
            Err(_) => return Ok(()),
        };
        match state.fold(kind, relist, event) {
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
