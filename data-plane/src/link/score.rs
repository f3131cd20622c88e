//! Score requests to one control-plane replica: many requests over one stream.
//!
//! ```text
//!   request ──ask──▶ queue (bounded) ──▶ one message with all queued requests ──▶ replica
//!      ▲                                                                       │
//!      └──────────── oneshot, by id ◀── pending ◀─ answers, any order: [queued,] chosen or rejected
//! ```
//!
//! One call per request would cost more, so this file provides what a call would: the caller has
//! the deadline; a dropped [`PendingScore`] cancels the request, also in the replica's queue; the
//! queue bounds outstanding requests; a broken stream fails all pending requests at once, so that
//! they fall back without waiting.

mod pending;
mod stream;

use std::{sync::Arc, time::Duration};

use hermes_proto::{convert::Answer, v1};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

pub(crate) use self::stream::{ScoreStream, run};
use self::{
    pending::{PendingScores, ScoreMessage, ScoreReply},
    stream::FailPendingOnDrop,
};

/// Capacity of the queue of requests to send.
const QUEUE: usize = 8_192;

/// Sends Score requests to one replica.
#[derive(Clone)]
pub(crate) struct ScoreClient {
    queue: mpsc::Sender<ScoreMessage>,
    pending: Arc<Mutex<PendingScores>>,
}

/// A Score request without a final answer. Dropping it cancels the request, its booking and its
/// place in the queue.
pub(crate) struct PendingScore {
    id: u64,
    reply: oneshot::Receiver<ScoreReply>,
    client: ScoreClient,
    /// Nothing is left to cancel.
    over: bool,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScoreClientError {
    #[error("the queue of Score requests is full")]
    Full,
    #[error("the stream to the control plane broke")]
    Broken,
    #[error("no answer in time")]
    Late,
}

/// The two ends of a stream that is not open yet: the client, and what [`run`] needs.
pub(crate) fn channel() -> (ScoreClient, ScoreStream) {
    let (queue, outbound) = mpsc::channel(QUEUE);
    let pending = Arc::<Mutex<PendingScores>>::default();
    (
        ScoreClient {
            queue,
            pending: Arc::clone(&pending),
        },
        ScoreStream {
            outbound,
            pending: FailPendingOnDrop(pending),
        },
    )
}

// === ScoreClient ===

impl ScoreClient {
    /// Sends a request; the answer is awaited separately.
    pub(crate) fn ask(&self, request: v1::ScoreRequest) -> Result<PendingScore, ScoreClientError> {
        let id = request.id;
        let (waiter, reply) = oneshot::channel();
        {
            let mut pending = self.pending.lock();
            if pending.broken {
                return Err(ScoreClientError::Broken);
            }
            pending.by_id.insert(id, waiter);
        }
        if self
            .queue
            .try_send(ScoreMessage::Ask(Box::new(request)))
            .is_err()
        {
            self.pending.lock().by_id.remove(&id);
            return Err(ScoreClientError::Full);
        }
        Ok(PendingScore {
            id,
            reply,
            client: self.clone(),
            over: false,
        })
    }

    /// Whether the stream is broken, so that requests would fail.
    pub(crate) fn is_broken(&self) -> bool {
        self.pending.lock().broken
    }
}

// === PendingScore ===

impl PendingScore {
    /// Waits for the next answer, at most for `within`. After [`Answer::Queued`] the final one is
    /// still to come.
    pub(crate) async fn answer(&mut self, within: Duration) -> Result<Answer, ScoreClientError> {
        let reply = timeout(within, &mut self.reply)
            .await
            .map_err(|_| ScoreClientError::Late)?;
        // Answered or broken: only a place in the replica's queue is left to cancel.
        self.over = true;
        match reply.map_err(|_| ScoreClientError::Broken)? {
            ScoreReply::Final(answer) => Ok(answer),
            ScoreReply::Queued(queued, reply) => {
                self.over = false;
                self.reply = reply;
                Ok(Answer::Queued(queued))
            }
        }
    }
}

impl Drop for PendingScore {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.client.pending.lock().by_id.remove(&self.id);
        // When the queue is full the booking ends with its time to live, and the place in the queue
        // with its limit.
        let _ = self.client.queue.try_send(ScoreMessage::Cancel(self.id));
    }
}

#[cfg(test)]
mod tests;
