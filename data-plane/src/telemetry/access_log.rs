//! The access log: one line of JSON for each finished request, for listeners on the admin port.
//!
//! ```text
//!   request guard, when dropped ──▶ ring (bounded) ──▶ one stream of lines for each listener (few)
//! ```
//!
//! The fields are those of the Mooncake trace format, so that trace tools can read them, and a few
//! more. A prompt is recorded as sizes and block hashes, never as text; a tenant as a hash. Without
//! listeners a request costs one atomic load. A listener that is too slow loses the oldest records,
//! and gets a line with their number.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::json;
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::Instant,
};

use crate::request::prompt::BYTES_PER_TOKEN;

/// Records that are kept for the slowest listener. A record is a few hundred bytes, plus 8 for each
/// block of its prompt.
const RING: usize = 1_024;

/// Maximum number of listeners.
pub(crate) const MAX_LISTENERS: usize = 4;

/// Distributes records to listeners.
pub(crate) struct AccessLog {
    ring: broadcast::Sender<Arc<AccessRecord>>,
    listeners: AtomicUsize,
}

/// One finished request.
#[derive(Debug)]
pub(crate) struct AccessRecord {
    pub(crate) arrived: Instant,
    /// As the client wrote it; empty when it wrote none.
    pub(crate) model: Box<str>,
    pub(crate) pool: Arc<str>,
    /// Hash of the tenant.
    pub(crate) tenant: Option<u64>,
    pub(crate) block_bytes: u32,
    pub(crate) prompt_bytes: u64,
    pub(crate) blocks: Arc<[u64]>,
    /// Reported by the engine, else estimated.
    pub(crate) prompt_tokens: u32,
    /// Reported by the engine, else the number of pieces of its answer.
    pub(crate) completion_tokens: u64,
    pub(crate) cached_tokens: Option<u32>,
    /// Time from the arrival to the first byte.
    pub(crate) ttft: Option<Duration>,
    pub(crate) endpoint: Option<Arc<str>>,
    pub(crate) outcome: &'static str,
}

/// A listener's slot, released when dropped.
struct ListenerSlot(Arc<AccessLog>);

// === AccessLog ===

impl Default for AccessLog {
    fn default() -> Self {
        Self {
            ring: broadcast::Sender::new(RING),
            listeners: AtomicUsize::new(0),
        }
    }
}

impl AccessLog {
    /// Whether a listener is connected; otherwise requests keep nothing for a record.
    pub(crate) fn has_listeners(&self) -> bool {
        self.listeners.load(Ordering::Relaxed) > 0
    }

    /// Sends the record of a finished request to the listeners.
    pub(crate) fn publish(&self, record: AccessRecord) {
        // The last listener may just have disconnected.
        let _no_listener = self.ring.send(Arc::new(record));
    }

    /// The lines of requests that arrive from now on, until the listener disconnects; `None` when
    /// there are too many listeners.
    ///
    /// Times count from now, so that the streams of several proxies that begin together can be
    /// merged.
    pub(crate) fn listen(self: &Arc<Self>) -> Option<impl Stream<Item = Bytes> + Send + use<>> {
        let place = ListenerSlot::take(self)?;
        let (began, ring) = (Instant::now(), self.ring.subscribe());
        Some(stream::unfold(
            (place, ring),
            move |(place, mut ring)| async move {
                let line = loop {
                    match ring.recv().await {
                        Ok(record) => match record.line(began) {
                            Some(line) => break line,
                            // It arrived before this listener: its time would be negative.
                            None => continue,
                        },
                        Err(RecvError::Lagged(lost)) => break json!({ "lost": lost }).to_string(),
                        Err(RecvError::Closed) => return None,
                    }
                };
                Some((Bytes::from(line + "\n"), (place, ring)))
            },
        ))
    }
}

// === ListenerSlot ===

impl ListenerSlot {
    fn take(records: &Arc<AccessLog>) -> Option<Self> {
        let taken = records.listeners.fetch_add(1, Ordering::Relaxed);
        // Counted already: released again if it was one too many.
        let place = Self(Arc::clone(records));
        (taken < MAX_LISTENERS).then_some(place)
    }
}

impl Drop for ListenerSlot {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

// === AccessRecord ===

impl AccessRecord {
    /// Its line, without the end of line; `None` if it arrived before `began`.
    fn line(&self, began: Instant) -> Option<String> {
        let timestamp = self.arrived.checked_duration_since(began)?.as_millis() as u64;
        let line = json!({
            "timestamp": timestamp,
            "input_length": self.prompt_tokens,
            "output_length": self.completion_tokens,
            "hash_ids": &*self.blocks,
            "block_tokens": self.block_tokens(),
            "prompt_bytes": self.prompt_bytes,
            "model": self.model,
            "pool": self.pool,
            "tenant": self.tenant.map(|tenant| format!("{tenant:016x}")),
            "ttft_ms": self.ttft.map(|ttft| ttft.as_secs_f64() * 1e3),
            "cached_tokens": self.cached_tokens,
            "endpoint": self.endpoint,
            "outcome": self.outcome,
        });
        Some(line.to_string())
    }

    /// Tokens assumed per block. The same for every prompt, as blocks are compared between prompts;
    /// readers that need it more exactly have the bytes and the tokens of each prompt.
    fn block_tokens(&self) -> u64 {
        (u64::from(self.block_bytes) / BYTES_PER_TOKEN).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::StreamExt;
    use serde_json::Value;

    use super::*;

    fn record(prompt_tokens: u32) -> AccessRecord {
        AccessRecord {
            arrived: Instant::now(),
            model: "m".into(),
            pool: "chat".into(),
            tenant: Some(10),
            block_bytes: 256,
            prompt_bytes: 640,
            blocks: [u64::MAX, 7].into(),
            prompt_tokens,
            completion_tokens: 3,
            cached_tokens: None,
            ttft: Some(Duration::from_millis(12)),
            endpoint: Some("engine-1".into()),
            outcome: "ok",
        }
    }

    async fn next(lines: &mut (impl Stream<Item = Bytes> + Unpin)) -> Value {
        serde_json::from_slice(&lines.next().await.expect("a line")).expect("JSON")
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_a_record_of_the_trace_format_without_text() {
        let records = Arc::new(AccessLog::default());
        records.publish(record(1));
        let mut lines = pin!(records.listen().expect("a place"));
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        records.publish(record(160));
        assert_eq!(
            next(&mut lines).await,
            json!({
                "timestamp": 1_500, "input_length": 160, "output_length": 3, "hash_ids": [u64::MAX, 7],
                "block_tokens": 64, "prompt_bytes": 640, "model": "m", "pool": "chat", "tenant": "000000000000000a", "ttft_ms": 12.0,
                "cached_tokens": null, "endpoint": "engine-1", "outcome": "ok",
            })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_arrived_before_the_listener_are_skipped() {
        let records = Arc::new(AccessLog::default());
        let early = record(1);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut lines = pin!(records.listen().expect("a place"));
        records.publish(early);
        records.publish(record(2));
        assert_eq!(next(&mut lines).await["input_length"], 2);
    }

    #[tokio::test]
    async fn a_slow_listener_gets_the_number_of_lost_records() {
        let records = Arc::new(AccessLog::default());
        let mut lines = pin!(records.listen().expect("a place"));
        for number in 0..RING as u32 + 5 {
            records.publish(record(number));
        }
        assert_eq!(next(&mut lines).await, json!({ "lost": 5 }));
        assert_eq!(next(&mut lines).await["input_length"], 5);
    }

    #[test]
    fn there_are_few_listeners_and_none_after_they_disconnect() {
        let records = Arc::new(AccessLog::default());
        assert!(!records.has_listeners());
        let listeners: Vec<_> = std::iter::from_fn(|| records.listen()).collect();
        assert_eq!(listeners.len(), MAX_LISTENERS);
        drop(listeners);
        assert!(!records.has_listeners());
    }
}
