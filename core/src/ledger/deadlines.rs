//! When legs of one kind end, in the order in which they began: they all live equally long.

use std::{collections::VecDeque, time::Duration};

use super::keys::LegKey;

/// Deadlines of legs that ended early, kept without complaint.
const SLACK: usize = 1_024;

/// A queue of deadlines. Those of legs that ended or were replaced stay in it until they are due or
/// too many.
#[derive(Debug)]
pub(super) struct ExpiryQueue {
    ttl: Duration,
    queue: VecDeque<LegExpiry>,
}

#[derive(Clone, Copy, Debug)]
struct LegExpiry {
    at: Duration,
    leg: LegKey,
    generation: u64,
}

impl ExpiryQueue {
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            queue: VecDeque::new(),
        }
    }

    /// Adds the deadline of a leg that began now. `live` legs need one; if there are far more, the
    /// others go.
    ///
    /// Constant time, amortized: a cleaning costs what was pushed since the last.
    pub(super) fn push(
        &mut self,
        leg: LegKey,
        generation: u64,
        now: Duration,
        live: usize,
        is_live: impl Fn(LegKey, u64) -> bool,
    ) {
        if self.queue.len() > 2 * live + SLACK {
            self.queue
                .retain(|deadline| is_live(deadline.leg, deadline.generation));
        }
        // A clock that stepped back must not unsort the queue.
        let last = self
            .queue
            .back()
            .map_or(Duration::ZERO, |deadline| deadline.at);
        self.queue.push_back(LegExpiry {
            at: now.saturating_add(self.ttl).max(last),
            leg,
            generation,
        });
    }

    /// The next leg whose time is over, if any; taken out.
    pub(super) fn due(&mut self, now: Duration) -> Option<(LegKey, u64)> {
        let due = self.queue.pop_front_if(|deadline| deadline.at <= now)?;
        Some((due.leg, due.generation))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}
