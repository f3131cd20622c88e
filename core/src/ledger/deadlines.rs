//! When entries of one kind end, in the order in which they began: they all live equally long.

use std::{collections::VecDeque, time::Duration};

use super::RequestKey;

/// EntryDeadlines of entries that ended early, kept without complaint.
const SLACK: usize = 1_024;

/// A queue of deadlines. Those of entries that ended or were replaced stay in it until they are due
/// or too many.
#[derive(Debug)]
pub(super) struct EntryDeadlines {
    ttl: Duration,
    queue: VecDeque<EntryDeadline>,
}

#[derive(Clone, Copy, Debug)]
struct EntryDeadline {
    at: Duration,
    key: RequestKey,
    generation: u64,
}

impl EntryDeadlines {
    pub(super) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            queue: VecDeque::new(),
        }
    }

    /// Adds the deadline of an entry that began now. `live` entries need one; if there are far
    /// more, the others go.
    ///
    /// Constant time, amortized: a cleaning costs what was pushed since the last.
    pub(super) fn push(
        &mut self,
        key: RequestKey,
        generation: u64,
        now: Duration,
        live: usize,
        is_live: impl Fn(RequestKey, u64) -> bool,
    ) {
        if self.queue.len() > 2 * live + SLACK {
            self.queue
                .retain(|deadline| is_live(deadline.key, deadline.generation));
        }
        // A clock that stepped back must not unsort the queue.
        let last = self
            .queue
            .back()
            .map_or(Duration::ZERO, |deadline| deadline.at);
        self.queue.push_back(EntryDeadline {
            at: now.saturating_add(self.ttl).max(last),
            key,
            generation,
        });
    }

    /// The next entry whose time is over, if any; taken out.
    pub(super) fn due(&mut self, now: Duration) -> Option<(RequestKey, u64)> {
        let due = self.queue.pop_front_if(|deadline| deadline.at <= now)?;
        Some((due.key, due.generation))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}
