//! Which of several writes to the API server is made next, by replicas that write without an
//! election.
//!
//! Invariants:
//! * a second write of the same to one object comes later each time: replicas that disagree, as
//!   during an upgrade, do not contend for long;
//! * another write to an object is made at once, and one that is delayed delays no other.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, Hash, RandomState},
    time::Duration,
};

use hermes_core::backoff::Backoff;
use tokio::time::Instant;

/// The first pause before the same is written again, and the longest.
pub(crate) const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// What is written to one object.
pub(crate) trait ObjectWrite: Clone {
    /// Whether both would make the object say the same.
    fn is_same(&self, other: &Self) -> bool;
}

/// What was written to each object, and when it may be written again.
#[derive(Debug)]
pub(crate) struct PacedWrites<K, W>(BTreeMap<K, PacedWrite<W>>);

#[derive(Debug)]
struct PacedWrite<W> {
    write: W,
    again: Instant,
    backoff: Backoff,
}

/// What may be written next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NextWrite<K, W> {
    /// This one, now.
    Now(K, W),
    /// One that was written before, then.
    At(Instant),
    /// Nothing.
    Never,
}

// === PacedWrites ===

impl<K: Clone + Hash + Ord, W: ObjectWrite> PacedWrites<K, W> {
    /// Forgets objects but those that `is_kept` names, by key and by when they may be written again.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&K, Instant) -> bool) {
        self.0.retain(|key, written| is_kept(key, written.again));
    }

    /// Whether something was written to this object.
    pub(crate) fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Which of the writes that are due is to be made next.
    pub(crate) fn next<'a>(
        &self,
        due: impl IntoIterator<Item = (&'a K, &'a W)>,
        now: Instant,
    ) -> NextWrite<K, W>
    where
        K: 'a,
        W: 'a,
    {
        let mut earliest: Option<Instant> = None;
        for (key, write) in due {
            let written = self.0.get(key);
            match written.filter(|written| written.write.is_same(write)) {
                Some(written) if written.again > now => {
                    let first = earliest.map_or(written.again, |at| at.min(written.again));
                    earliest = Some(first);
                }
                _ => return NextWrite::Now(key.clone(), write.clone()),
            }
        }
        earliest.map_or(NextWrite::Never, NextWrite::At)
    }

    /// Notes that a write was made, or failed.
    pub(crate) fn note(&mut self, key: K, write: W, now: Instant) {
        let known = self.0.remove(&key);
        let known = known.filter(|known| known.write.is_same(&write));
        let seed = RandomState::new().hash_one(&key);
        let mut backoff = known.map_or_else(|| Backoff::new(AGAIN, seed), |known| known.backoff);
        let again = now + backoff.next_pause();
        let written = PacedWrite {
            write,
            again,
            backoff,
        };
        self.0.insert(key, written);
    }
}

impl<K, W> Default for PacedWrites<K, W> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}
