//! The ranks of one endpoint whose publishers dial.
//!
//! A rank is known from its first connection on. As many as the configuration or the engine's
//! metrics name, and as have not dialed yet, count as ranks of which nothing is known.

use std::collections::BTreeMap;

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use hermes_core::rng::SeededRng;
use tokio::sync::mpsc;

use super::{
    super::{arrival::Arrival, ingest::Ingest, source::MAX_RANKS},
    EndpointFollower,
};

/// Connections of one rank that may wait for the end of the one that is read.
const WAITING: usize = 1;

/// See the module.
pub(super) struct ArrivedRanks<'a> {
    follower: &'a EndpointFollower,
    /// Where the connections of each rank go.
    ranks: BTreeMap<u32, mpsc::Sender<Arrival>>,
    /// One for each rank; it ends with the rank.
    streams: FuturesUnordered<BoxFuture<'a, u32>>,
    /// Those that have not dialed.
    missing: Vec<Ingest>,
    rng: SeededRng,
}

impl<'a> ArrivedRanks<'a> {
    pub(super) fn new(follower: &'a EndpointFollower) -> Self {
        Self {
            follower,
            ranks: BTreeMap::new(),
            streams: FuturesUnordered::new(),
            missing: Vec::new(),
            rng: SeededRng::new(follower.endpoint.0),
        }
    }

    /// Follows this connection and those that come, until no rank is left.
    pub(super) async fn follow(mut self, first: Arrival, arrivals: &mut mpsc::Receiver<Arrival>) {
        let mut reported = self.follower.ports.reported();
        self.take(first);
        while !self.streams.is_empty() {
            tokio::select! {
                Some(arrival) = arrivals.recv() => self.take(arrival),
                Some(rank) = self.streams.next() => self.leave(rank),
                Ok(()) = reported.changed() => self.count_missing(),
            }
        }
    }

    /// Gives a connection to its rank. One too many is dropped, which ends it.
    fn take(&mut self, arrival: Arrival) {
        let rank = arrival.stream.rank;
        let arrival = match self.ranks.get(&rank) {
            None => arrival,
            Some(known) => match known.try_send(arrival) {
                Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => return,
                // The rank is about to leave.
                Err(mpsc::error::TrySendError::Closed(arrival)) => arrival,
            },
        };
        if self.ranks.len() >= MAX_RANKS as usize && !self.ranks.contains_key(&rank) {
            return;
        }
        self.forget(rank);
        let (sender, connections) = mpsc::channel(WAITING);
        // The channel is new and has room.
        let _sent = sender.try_send(arrival);
        self.ranks.insert(rank, sender);
        let follower = self.follower;
        let stream = follower.stream(rank, self.rng.next_u64());
        let followed = stream.receive(&follower.ports, connections);
        self.streams.push(followed.map(move |()| rank).boxed());
        self.count_missing();
    }

    fn leave(&mut self, rank: u32) {
        // Unless it came back while it left.
        if self.ranks.get(&rank).is_some_and(mpsc::Sender::is_closed) {
            self.ranks.remove(&rank);
            self.count_missing();
        }
    }

    /// Opens as many unknown ranks as are missing.
    fn count_missing(&mut self) {
        let expected = self.follower.ports.assumed_ranks();
        let lacking = (expected as usize).saturating_sub(self.ranks.len());
        let silent = (0..MAX_RANKS).filter(|rank| !self.ranks.contains_key(rank));
        let names: Vec<u32> = silent.take(lacking).collect();
        self.missing.clear();
        let dialed = |rank: u32| self.ranks.contains_key(&rank);
        self.follower
            .ranks
            .lock()
            .retain(|status| dialed(status.rank));
        for rank in names {
            let why =
                "not followed: the publishers of other ranks have dialed, and this one's has not"
                    .to_owned();
            let status = self.follower.unfollowed(rank, why);
            self.missing.push(self.follower.ingest(status));
        }
    }

    fn forget(&self, rank: u32) {
        self.follower
            .ranks
            .lock()
            .retain(|status| status.rank != rank);
    }
}
