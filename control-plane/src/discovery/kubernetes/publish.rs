//! Hands the whole set to the sink whenever it differs from the last one.
//!
//! ```text
//!   changes   x  xx x xxxx                x
//!   sink      ▲         ▲                 ▲
//!             at once   after `settle`    at once
//! ```

use std::{future::Future, time::Duration};

use tokio::time;

use super::{
    DiscoveredEndpoint,
    index::Endpoints,
    readiness::{PeerReadiness, UsableEndpoints},
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
    S: FnMut(Vec<DiscoveredEndpoint>) -> F,
    F: Future<Output = ()>,
{
    let mut last: Option<UsableEndpoints> = None;
    loop {
        state.changed().await;
        let Some(found) = state.found() else {
            continue;
        };
        let usable = readiness.apply(found);
        if last.as_ref() == Some(&usable) {
            continue;
        }
        let news = last
            .as_ref()
            .is_none_or(|last| last.endpoints != usable.endpoints);
        state.published(&usable);
        if news {
            sink(usable.endpoints.clone()).await;
        }
        last = Some(usable);
        time::sleep(SETTLE).await;
    }
}

#[cfg(test)]
mod tests;
