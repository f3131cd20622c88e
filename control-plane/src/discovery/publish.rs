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
    index::{Endpoints, Found},
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
    let mut last: Option<Found> = None;
    loop {
        state.changed().await;
        let Some(found) = state.found() else {
            continue;
        };
        if last.as_ref() == Some(&found) {
            continue;
        }
        let news = last.as_ref().is_none_or(|last| last.endpoints != found.endpoints);
        state.published(&found);
        if news {
            sink(found.endpoints.clone()).await;
        }
        last = Some(found);
        time::sleep(SETTLE).await;
    }
}

#[cfg(test)]
mod tests;
