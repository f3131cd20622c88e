//! Requests that wait for an answer, and the messages to the replica.

use std::{collections::HashMap, mem};

use hermes_proto::{
    convert::{Answer, Queued},
    v1,
};
use tokio::sync::oneshot;

/// Senders of answers by request id. Bounded by the requests in flight: each waits for at most one
/// answer.
#[derive(Default)]
pub(super) struct PendingScores {
    pub(super) by_id: HashMap<u64, oneshot::Sender<ScoreReply>>,
    /// The stream is broken: no request is answered any more.
    pub(super) broken: bool,
}

/// An answer on its way to its request.
#[expect(
    clippy::large_enum_variant,
    reason = "most answers are the large one, and a box would cost an allocation for each"
)]
pub(super) enum ScoreReply {
    Final(Answer),
    /// The request is in the replica's queue; the final answer comes on this channel, which only
    /// queued requests need.
    Queued(Queued, oneshot::Receiver<ScoreReply>),
}

pub(super) enum ScoreMessage {
    Ask(Box<v1::ScoreRequest>),
    Cancel(u64),
}

// === PendingScores ===

impl PendingScores {
    /// Delivers an answer to its waiter; the waiter may have been dropped.
    pub(super) fn deliver(&mut self, id: u64, answer: Answer) {
        let waiter = match answer {
            Answer::Queued(queued) => {
                let Some(waiter) = self.by_id.get_mut(&id) else {
                    return;
                };
                let (next, reply) = oneshot::channel();
                (
                    mem::replace(waiter, next),
                    ScoreReply::Queued(queued, reply),
                )
            }
            Answer::Chosen(_) | Answer::Refused { .. } => {
                let Some(waiter) = self.by_id.remove(&id) else {
                    return;
                };
                (waiter, ScoreReply::Final(answer))
            }
        };
        let (waiter, reply) = waiter;
        // A waiter that was dropped has cancelled its request.
        let _left = waiter.send(reply);
    }

    /// Fails all pending requests: dropping the senders wakes their receivers with an error.
    pub(super) fn fail(&mut self) {
        self.broken = true;
        self.by_id = HashMap::new();
    }
}
