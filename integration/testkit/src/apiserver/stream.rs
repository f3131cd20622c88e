//! The body of a watch: one JSON event per line, until its time is up or its version is too old.

use std::{convert::Infallible, fmt::Write, future::pending, sync::Arc};

use bytes::Bytes;
use futures::{Stream, stream};
use http_body::Frame;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Shared, query::Query, store::Listed};

/// A watch that a client follows.
struct Watch {
    shared: Arc<Shared>,
    query: Query,
    /// Everything up to here was sent; `None` before a watch without a version has sent what
    /// exists.
    version: Option<u64>,
    newest: watch::Receiver<u64>,
    /// The number of freezes when it began.
    born: u64,
    ends: Instant,
    ended: bool,
}

/// The frames of the watch that `query` asks for.
pub(crate) fn events(
    shared: Arc<Shared>,
    query: Query,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    let newest = shared.version.subscribe();
    let version = query.version;
    let (born, longest) = {
        let faults = shared.faults.lock();
        (faults.frozen, faults.longest_watch.unwrap_or(query.timeout))
    };
    let ends = Instant::now() + query.timeout.min(longest);
    let watch = Watch {
        shared,
        query,
        version,
        newest,
        born,
        ends,
        ended: false,
    };
    stream::unfold(watch, async |mut watch| {
        let lines = watch.next().await?;
        Some((Ok(Frame::data(Bytes::from(lines))), watch))
    })
}

// === Watch ===

impl Watch {
    /// The next events as lines, or nothing at the end.
    async fn next(&mut self) -> Option<String> {
        while !self.ended {
            // Taken before looking at the store, so that a change in between wakes the wait below.
            self.newest.borrow_and_update();
            let lines = self.lines();
            self.stay_silent_when_frozen().await;
            if !lines.is_empty() {
                return Some(lines);
            }
            tokio::select! {
                changed = self.newest.changed() => changed.ok()?,
                () = sleep_until(self.ends) => self.ended = true,
            }
            self.stay_silent_when_frozen().await;
        }
        None
    }

    async fn stay_silent_when_frozen(&self) {
        if self.shared.faults.lock().frozen > self.born {
            pending::<()>().await;
        }
    }

    /// Whatever happened since the last call.
    fn lines(&mut self) -> String {
        let store = self.shared.store.lock();
        let mut lines = String::new();
        let sent = self.version.replace(store.version());
        let events = match sent {
            Some(version) => store.since(&self.query.scope, version),
            None => store
                .list(&self.query.scope, 0, None)
                .map(Listed::into_events),
        };
        match events {
            Ok(events) => {
                for event in events {
                    line(&mut lines, event.kind, &event.object);
                }
            }
            Err(expired) => {
                line(&mut lines, "ERROR", &expired.object());
                self.ended = true;
            }
        }
        // Only changes elsewhere: a bookmark carries the version that the watch has reached.
        if lines.is_empty() && self.query.bookmarks && sent < self.version {
            let version = store.version().to_string();
            let api_version = self.query.scope.collection.api_version();
            let kind = self.query.scope.collection.plural();
            let mark = json!({"kind": kind, "apiVersion": api_version, "metadata": {"resourceVersion": version}});
            line(&mut lines, "BOOKMARK", &mark);
        }
        lines
    }
}

fn line(lines: &mut String, kind: &str, object: &Value) {
    let event = json!({"type": kind, "object": object});
    // Writing to a string cannot fail.
    let _ = writeln!(lines, "{event}");
}
