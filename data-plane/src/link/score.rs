//! Asking a control-plane replica where a request should go: many requests over one stream.
//!
//! ```text
//!   request ──ask──▶ queue (bounded) ──▶ one message with all that waits ──▶ replica
//!      ▲                                                                       │
//!      └──────────── oneshot, by id ◀── waiters ◀─ answers, any order: [queued,] chosen or refused
//! ```
//!
//! What a unary call would give for free is done here: the caller has the deadline and its [`PendingScore`] takes the question
//! back when dropped, whether it is on its way or waits in the replica's queue; the queue bounds what is outstanding;
//! and a broken stream fails everybody who waits on it at once, so that they choose by themselves.

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

/// ScoreStream that may wait to be sent.
const QUEUE: usize = 8_192;

/// Where to put questions for one replica.
#[derive(Clone)]
pub(crate) struct ScoreClient {
    queue: mpsc::Sender<ScoreMessage>,
    waiters: Arc<Mutex<PendingScores>>,
}

/// A question on its way. Dropped before its final answer came, it is taken back, and its booking or place with it.
pub(crate) struct PendingScore {
    id: u64,
    reply: oneshot::Receiver<ScoreReply>,
    asker: ScoreClient,
    /// Nothing is left to take back.
    over: bool,
}

/// SelectionDetails there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScoreClientError {
    #[error("too many questions wait already")]
    Full,
    #[error("the stream to the control plane broke")]
    Broken,
    #[error("no answer in time")]
    Late,
}

/// A stream's two ends before it is opened: where to ask, and what [`run`] needs.
pub(crate) fn channel() -> (ScoreClient, ScoreStream) {
    let (queue, outbound) = mpsc::channel(QUEUE);
    let waiters = Arc::<Mutex<PendingScores>>::default();
    (
        ScoreClient {
            queue,
            waiters: Arc::clone(&waiters),
        },
        ScoreStream {
            outbound,
            waiters: FailPendingOnDrop(waiters),
        },
    )
}

// === ScoreClient ===

impl ScoreClient {
    /// Asks; the answer is awaited separately.
    pub(crate) fn ask(&self, request: v1::ScoreRequest) -> Result<PendingScore, ScoreClientError> {
        let id = request.id;
        let (waiter, reply) = oneshot::channel();
        {
            let mut waiters = self.waiters.lock();
            if waiters.broken {
                return Err(ScoreClientError::Broken);
            }
            waiters.by_id.insert(id, waiter);
        }
        if self
            .queue
            .try_send(ScoreMessage::Ask(Box::new(request)))
            .is_err()
        {
            self.waiters.lock().by_id.remove(&id);
            return Err(ScoreClientError::Full);
        }
        Ok(PendingScore {
            id,
            reply,
            asker: self.clone(),
            over: false,
        })
    }

    /// Whether asking is in vain: the stream broke, and the news of it is on its way.
    pub(crate) fn is_broken(&self) -> bool {
        self.waiters.lock().broken
    }
}

// === PendingScore ===

impl PendingScore {
    /// Waits for the next answer, at most this long. After [`Answer::Queued`] the final one is still to come.
    pub(crate) async fn answer(&mut self, within: Duration) -> Result<Answer, ScoreClientError> {
        let reply = timeout(within, &mut self.reply)
            .await
            .map_err(|_| ScoreClientError::Late)?;
        // Answered or broken: either way nothing is left to take back, but a place in the queue.
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
        self.asker.waiters.lock().by_id.remove(&self.id);
        // If even this does not fit, the booking falls with its time to live, and the place in the queue with its limit.
        let _ = self.asker.queue.try_send(ScoreMessage::Cancel(self.id));
    }
}

#[cfg(test)]
mod tests;
