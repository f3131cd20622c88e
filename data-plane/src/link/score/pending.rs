//! Who waits for which answer, and what goes to the replica.

use std::{collections::HashMap, mem};

use hermes_proto::{
    convert::{Answer, Queued},
    v1,
};
use tokio::sync::oneshot;

/// Who waits for which answer. Bounded by the requests in flight: each waits for one answer at most.
#[derive(Default)]
pub(super) struct PendingScores {
    pub(super) by_id: HashMap<u64, oneshot::Sender<ScoreReply>>,
    /// The stream is broken: nobody will be answered any more.
    pub(super) broken: bool,
}

/// What a waiter is told.
pub(super) enum ScoreReply {
    Final(Answer),
    /// The request waits at the replica; the final answer comes on another channel, made only for those who wait.
    Queued(Queued, oneshot::Receiver<ScoreReply>),
}

pub(super) enum ScoreMessage {
    Ask(Box<v1::ScoreRequest>),
    Cancel(u64),
}

// === PendingScores ===

impl PendingScores {
    /// Hands an answer to whoever waits for it; he may have left.
    pub(super) fn tell(&mut self, id: u64, answer: Answer) {
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
        // Whoever left meanwhile has taken the question back.
        let _left = waiter.send(reply);
    }

    /// Nobody is answered any more: dropping the senders wakes their receivers with an error.
    pub(super) fn fail(&mut self) {
        self.broken = true;
        self.by_id = HashMap::new();
    }
}
