//! The deadlines of a client's connection: for the head of a request, for the time between two
//! requests, and for taking an answer.
//!
//! Nothing is armed per request. One timer per connection fires at the earliest time at which a
//! deadline may have passed, and computes the exact one then.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    answer_progress::AnswerProgress,
    client_requests::{ClientRequests, ConnectionPhase},
};
use crate::proxy::ClientLimits;

/// The least time between two looks at a connection, however short the limits are.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// Which deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    Head,
    Idle,
    /// Of an answer over HTTP/1.
    Answer,
}

/// Resolves when a deadline has passed. `limits` may change from call to call; `progress` is that
/// of the answers over HTTP/1.
pub(super) async fn overdue(
    requests: ClientRequests,
    progress: Arc<AnswerProgress>,
    limits: impl Fn() -> ClientLimits,
) -> Overdue {
    loop {
        let ClientLimits { head, idle, send } = limits();
        let now = Instant::now();
        // Nothing that begins after now is late before.
        let again = now + head.min(idle).min(send).max(LEAST_PAUSE);
        let (due, what) = match requests.phase() {
            ConnectionPhase::Head(since) => (since + head, Overdue::Head),
            ConnectionPhase::Idle(since) => (since + idle, Overdue::Idle),
            ConnectionPhase::Serving => (progress.due().unwrap_or(again), Overdue::Answer),
        };
        if due <= now {
            return what;
        }
        sleep_until(due.min(again)).await;
    }
}

#[cfg(test)]
mod tests {
    use http::Version;
    use tokio::{task::JoinHandle, time::advance};

    use super::*;

    const LIMITS: ClientLimits = ClientLimits {
        head: Duration::from_secs(30),
        idle: Duration::from_secs(600),
        send: Duration::from_secs(60),
    };

    fn watch(requests: &ClientRequests) -> JoinHandle<(Overdue, Instant)> {
        let overdue = overdue(requests.clone(), Arc::new(AnswerProgress::new()), || LIMITS);
        tokio::spawn(async { (overdue.await, Instant::now()) })
    }

    async fn seconds(seconds: u64) {
        for _ in 0..seconds {
            advance(Duration::from_secs(1)).await;
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_head_has_the_heads_limit() {
        let (start, requests) = (Instant::now(), ClientRequests::new());
        let (overdue, at) = watch(&requests).await.expect("no panic");
        assert_eq!((overdue, at - start), (Overdue::Head, LIMITS.head));
    }

    #[tokio::test(start_paused = true)]
    async fn a_heads_limit_begins_with_its_first_byte_and_idleness_has_its_own() {
        let requests = ClientRequests::new();
        let watched = watch(&requests);
        requests.received(b"GET / HTTP/1.1\r\n\r\n");
        let open = requests.begin(Version::HTTP_11);
        seconds(100).await;
        drop(open);
        seconds(500).await;
        let first_byte = Instant::now();
        requests.received(b"G");
        seconds(20).await;
        requests.received(b"E");
        let (overdue, at) = watched.await.expect("no panic");
        assert_eq!((overdue, at - first_byte), (Overdue::Head, LIMITS.head));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_its_last_answer() {
        let requests = ClientRequests::new();
        let watched = watch(&requests);
        requests.received(b"GET / HTTP/1.1\r\n\r\n");
        drop(requests.begin(Version::HTTP_11));
        let answered = Instant::now();
        let (overdue, at) = watched.await.expect("no panic");
        assert_eq!((overdue, at - answered), (Overdue::Idle, LIMITS.idle));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_of_http2_is_idle_once_its_preface_is_complete() {
        let requests = ClientRequests::new();
        let watched = watch(&requests);
        requests.received(b"PRI * HTTP/2.0\r\n");
        assert!(!requests.is_multiplexed());
        requests.received(b"\r\nSM\r\n\r\nand a frame");
        assert!(requests.is_multiplexed());
        let complete = Instant::now();
        seconds(100).await;
        requests.received(b"the answer to a ping");
        let (overdue, at) = watched.await.expect("no panic");
        assert_eq!((overdue, at - complete), (Overdue::Idle, LIMITS.idle));
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_of_the_preface_has_the_heads_limit() {
        let (start, requests) = (Instant::now(), ClientRequests::new());
        let watched = watch(&requests);
        requests.received(b"PRI * HTTP/2.0\r\n");
        let (overdue, at) = watched.await.expect("no panic");
        assert_eq!((overdue, at - start), (Overdue::Head, LIMITS.head));
    }
}
