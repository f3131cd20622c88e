//! Requests by replay what a stream lacks: the batches before its start, and those that were
//! dropped.

use super::{
    super::{
        decode,
        metrics::{ClearCause, ReplayOutcome, StreamFailure},
        replay::{Replay, ReplayedBatch},
        sequence::Mark,
        source::PublisherAddress,
    },
    Stream,
};

/// Retries of one replay that had gaps.
const MAX_QUESTIONS: usize = 64;

impl Stream {
    /// After a connect: learns what was published before.
    pub(super) async fn catch_up(&mut self, place: &PublisherAddress) {
        let newest = self.sequence.newest();
        let resumed = match (newest, &place.replay) {
            (Some(newest), Some(replay)) => self.resume(newest, replay).await,
            _ => false,
        };
        if resumed {
            return;
        }
        if newest.is_some() {
            self.ingest.clear(ClearCause::Restart, false);
        }
        self.sequence.forget();
        let Some(replay) = &place.replay else { return };
        match self.replay(0, replay).await {
            Ok(outcome) => {
                self.counters.replays[outcome].inc();
                self.ingest.set_whole(outcome == ReplayOutcome::Complete);
            }
            Err(failure) => self.no_replay(failure),
        }
    }

    /// Goes on where an earlier connection broke off, if the publisher is still the same.
    async fn resume(&mut self, newest: Mark, replay: &str) -> bool {
        let first = async {
            let mut question = Replay::ask(replay, newest.number).await?;
            question.next().await
        };
        let is_same = matches!(
            first.await,
            Ok(Some(ReplayedBatch { number, ref payload })) if Mark::of(number, payload) == newest
        );
        if !is_same {
            return false;
        }
        match self.replay(newest.number.saturating_add(1), replay).await {
            Ok(outcome) => {
                self.counters.replays[outcome].inc();
                outcome == ReplayOutcome::Complete
            }
            Err(failure) => {
                self.no_replay(failure);
                false
            }
        }
    }

    /// Learns what is missing from `from` on, or drops everything.
    pub(super) async fn fill(&mut self, from: u64, place: &PublisherAddress) {
        let outcome = match &place.replay {
            Some(replay) => self.replay(from, replay).await,
            None => Ok(ReplayOutcome::Incomplete),
        };
        // What is missing for good may have been removals.
        match outcome {
            Ok(outcome) if place.replay.is_some() => {
                self.counters.replays[outcome].inc();
            }
            Ok(_) => self.ingest.clear(ClearCause::Gap, false),
            Err(failure) => {
                self.no_replay(failure);
                self.ingest.clear(ClearCause::Gap, false);
            }
        }
    }

    /// Takes in all batches from `from` on, as far as the publisher's buffer has them. When it
    /// begins later, what was known is dropped first, and what it has is taken in all the same.
    async fn replay(&mut self, from: u64, replay: &str) -> Result<ReplayOutcome, StreamFailure> {
        let (mut next, mut outcome) = (from, ReplayOutcome::Complete);
        for _ in 0..MAX_QUESTIONS {
            let mut question = Replay::ask(replay, next).await?;
            let asked = next;
            loop {
                let batch = match question.next().await {
                    // The rest of the answer was dropped on the way, its end included.
                    Err(StreamFailure::Timeout) if next > asked => break,
                    batch => batch?,
                };
                let Some(ReplayedBatch { number, payload }) = batch else {
                    if next == 0 {
                        self.sequence.begins();
                    }
                    return Ok(outcome);
                };
                if self
                    .named_rank
                    .is_some_and(|rank| decode::rank(&payload) != Ok(rank))
                {
                    return Err(StreamFailure::Protocol);
                }
                if number < next {
                    continue;
                }
                // A hole in the middle of an answer: what is in it may still be there.
                if number > next && next > asked {
                    break;
                }
                if number > next {
                    outcome = ReplayOutcome::Incomplete;
                    self.sequence.forget();
                    if from > 0 {
                        self.ingest.clear(ClearCause::Gap, false);
                    }
                }
                self.take(number, &payload).await;
                next = number.saturating_add(1);
            }
        }
        Err(StreamFailure::ConnectionBroken)
    }

    pub(super) async fn take(&mut self, number: u64, payload: &[u8]) {
        self.ingest.take(number, payload).await;
        self.sequence.took(number, payload);
    }

    fn no_replay(&self, failure: StreamFailure) {
        self.counters.replays[ReplayOutcome::Failed].inc();
        tracing::debug!(
            rank = self.status.rank,
            reason = failure.name(),
            "no replay of KV events"
        );
    }
}
