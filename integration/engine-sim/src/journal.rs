//! What the engine was sent: a bounded memory of requests, for tests that ask what a router
//! forwarded.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use parking_lot::Mutex;

/// Most bytes of bodies that the journal keeps; older requests go first.
const BODY_BYTES: usize = 256 << 20;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// The method.
    pub method: Method,
    /// The request target: path and query.
    pub uri: Uri,
    /// All headers, `traceparent` and `tracestate` among them.
    pub headers: HeaderMap,
    /// The body, byte for byte, without chunk framing.
    pub body: Bytes,
}

#[derive(Debug)]
pub(crate) struct Journal {
    capacity: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    requests: VecDeque<Arc<RecordedRequest>>,
    bytes: usize,
}

impl RecordedRequest {
    /// A header as text; `None` when it is absent or not ASCII.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; `Null` when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Journal {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            kept: Mutex::default(),
        }
    }

    pub(crate) fn record(&self, request: &Arc<RecordedRequest>) {
        if self.capacity == 0 {
            return;
        }
        let mut kept = self.kept.lock();
        kept.bytes += request.body.len();
        kept.requests.push_back(Arc::clone(request));
        while kept.requests.len() > self.capacity || kept.bytes > BODY_BYTES {
            let Some(oldest) = kept.requests.pop_front() else {
                return;
            };
            kept.bytes -= oldest.body.len();
        }
    }

    /// All remembered requests, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<RecordedRequest>> {
        self.kept.lock().requests.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: &'static str) -> Arc<RecordedRequest> {
        let request = RecordedRequest {
            method: Method::POST,
            uri: Uri::from_static("/v1/completions"),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        Arc::new(request)
    }

    #[test]
    fn the_newest_requests_are_kept() {
        let journal = Journal::new(2);
        for body in ["1", "2", "3"] {
            journal.record(&request(body));
        }
        let bodies: Vec<_> = journal
            .all()
            .iter()
            .map(|request| request.body.clone())
            .collect();
        assert_eq!(bodies, ["2", "3"]);
    }

    #[test]
    fn a_journal_without_capacity_keeps_nothing() {
        let journal = Journal::new(0);
        journal.record(&request("1"));
        assert!(journal.all().is_empty());
    }
}
