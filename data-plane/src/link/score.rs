//! Asking a control-plane replica where a request should go: many requests over one stream.
//!
//! ```text
//!   request ──ask──▶ queue (bounded) ──▶ one message with all that waits ──▶ replica
//!      ▲                                                                       │
//!      └──────────── oneshot, by id ◀── waiters ◀─ answers, any order: [queued,] chosen or refused
//! ```
//!
//! What a unary call would give for free is done here: the caller has the deadline and its [`Asked`] takes the question
//! back when dropped, whether it is on its way or waits in the replica's queue; the queue bounds what is outstanding;
//! and a broken stream fails everybody who waits on it at once, so that they choose by themselves.

mod stream;
mod waiters;

use std::{sync::Arc, time::Duration};

use hermes_proto::{convert::Answer, v1};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

pub(crate) use self::stream::{Questions, run};
use self::{
    stream::FailedOnDrop,
    waiters::{Outbound, Reply, Waiters},
};

/// Questions that may wait to be sent.
const QUEUE: usize = 8_192;

/// Where to put questions for one replica.
#[derive(Clone)]
pub(crate) struct Asker {
    queue: mpsc::Sender<Outbound>,
    waiters: Arc<Mutex<Waiters>>,
}

/// A question on its way. Dropped before its final answer came, it is taken back, and its booking or place with it.
pub(crate) struct Asked {
    id: u64,
    reply: oneshot::Receiver<Reply>,
    asker: Asker,
    /// Nothing is left to take back.
    over: bool,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("too many questions wait already")]
    Full,
    #[error("the stream to the control plane broke")]
    Broken,
    #[error("no answer in time")]
    Late,
}

/// A stream's two ends before it is opened: where to ask, and what [`run`] needs.
pub(crate) fn channel() -> (Asker, Questions) {
    let (queue, outbound) = mpsc::channel(QUEUE);
    let waiters = Arc::<Mutex<Waiters>>::default();
    (
        Asker {
            queue,
            waiters: Arc::clone(&waiters),
        },
        Questions {
            outbound,
            waiters: FailedOnDrop(waiters),
        },
    )
}

// === Asker ===

impl Asker {
    /// Asks; the answer is awaited separately.
    pub(crate) fn ask(&self, request: v1::ScoreRequest) -> Result<Asked, NoAnswer> {
        let id = request.id;
        let (waiter, reply) = oneshot::channel();
        {
            let mut waiters = self.waiters.lock();
            if waiters.broken {
                return Err(NoAnswer::Broken);
            }
            waiters.by_id.insert(id, waiter);
        }
        if self
            .queue
            .try_send(Outbound::Ask(Box::new(request)))
            .is_err()
        {
            self.waiters.lock().by_id.remove(&id);
            return Err(NoAnswer::Full);
        }
        Ok(Asked {
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

// === Asked ===

impl Asked {
    /// Waits for the next answer, at most this long. After [`Answer::Queued`] the final one is still to come.
    pub(crate) async fn answer(&mut self, within: Duration) -> Result<Answer, NoAnswer> {
        let reply = timeout(within, &mut self.reply)
            .await
            .map_err(|_| NoAnswer::Late)?;
        // Answered or broken: either way nothing is left to take back, but a place in the queue.
        self.over = true;
        match reply.map_err(|_| NoAnswer::Broken)? {
            Reply::Final(answer) => Ok(answer),
            Reply::Queued(queued, reply) => {
                self.over = false;
                self.reply = reply;
                Ok(Answer::Queued(queued))
            }
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.asker.waiters.lock().by_id.remove(&self.id);
        // If even this does not fit, the booking falls with its time to live, and the place in the queue with its limit.
        let _ = self.asker.queue.try_send(Outbound::Cancel(self.id));
    }
}

#[cfg(test)]
mod tests;
