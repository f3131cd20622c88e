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
    Discovered,
    index::Endpoints,
    readiness::{Believed, Readiness},
    state::State,
};

/// How long changes gather after one was published. Far below the 300 ms within which a change must arrive.
pub(crate) const SETTLE: Duration = Duration::from_millis(50);

/// Publishes for ever. While the sink is busy changes gather, and it gets the newest set next.
pub(crate) async fn publish<I, S, F>(state: &State<I>, mut sink: S)
where
    I: Endpoints,
    S: FnMut(Vec<Discovered>) -> F,
    F: Future<Output = ()>,
{
    let mut readiness = Readiness::default();
    let mut last: Option<Believed> = None;
    loop {
        state.changed().await;
        let Some(found) = state.found() else {
            continue;
        };
        let believed = readiness.believe(found);
        if last.as_ref() == Some(&believed) {
            continue;
        }
        let news = last
            .as_ref()
            .is_none_or(|last| last.endpoints != believed.endpoints);
        state.published(&believed);
        if news {
            sink(believed.endpoints.clone()).await;
        }
        last = Some(believed);
        time::sleep(SETTLE).await;
    }
}

#[cfg(test)]
mod tests;
