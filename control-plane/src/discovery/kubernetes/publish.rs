//! Hands the whole set to the sink whenever it differs from the last one.
//!
//! ```text
//!   changes   x  xx x xxxx                x
//!   sink      ▲         ▲                 ▲
//!             at once   after `settle`    at once
//! ```

use std::{future::Future, time::Duration};

use tokio::time::{self, Instant};

use super::{
    DiscoveredSet,
    index::Endpoints,
    readiness::{DOUBT, PeerReadiness, UsableEndpoints},
    state::SourceIndex,
};

/// How long changes gather after one was published. Far below the 300 ms within which a change must
/// arrive.
pub(crate) const SETTLE: Duration = Duration::from_millis(50);

/// Publishes for ever. While the sink is busy changes gather, and it gets the newest set next.
/// `readiness`: which endpoints were ready before.
pub(crate) async fn publish<I, S, F>(
    state: &SourceIndex<I>,
    mut readiness: PeerReadiness,
    mut sink: S,
) where
    I: Endpoints,
    S: FnMut(DiscoveredSet) -> F,
    F: Future<Output = ()>,
{
    let began = Instant::now();
    let mut last: Option<UsableEndpoints> = None;
    loop {
        let is_doubtful = last.as_ref().is_some_and(|last| last.set.is_doubtful);
        tokio::select! {
            () = state.changed() => {}
            () = time::sleep_until(began + DOUBT), if is_doubtful => {}
        }
        let Some(found) = state.found() else {
            continue;
        };
        let usable = readiness.apply(found, began.elapsed());
        if last.as_ref() == Some(&usable) {
            continue;
        }
        state.published(&usable);
        if last.as_ref().is_none_or(|last| last.set != usable.set) {
            sink(usable.set.clone()).await;
        }
        last = Some(usable);
        time::sleep(SETTLE).await;
    }
}

#[cfg(test)]
mod tests;
