//! Follows one endpoint: finds out how many ranks it has, and follows each.
//!
//! ```text
//!   dial: every rank, where its publisher listens ──a publisher dials──▶ receive: each rank that dials
//!     ▲                                                                      │
//!     └──────────────────── none has been there for a while ◀────────────────┘
//! ```

mod arrived;

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::future::select_all;
use hermes_core::{backoff::Backoff, rng::SeededRng, snapshot::EndpointId};
use hermes_runtime::metrics::Handles;
use parking_lot::Mutex;
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc},
    time,
};

use self::arrived::ArrivedRanks;
use super::{
    arrival::Arrival,
    ingest::{Ingest, SharedIndex, Status},
    metrics::{KvEventsPoolMetrics, StreamFailure},
    source::PublisherPorts,
    stream::Stream,
};

/// The first pause after an engine could not report where its publisher is, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));

/// What it takes to follow one endpoint.
#[derive(Debug)]
pub(super) struct EndpointFollower {
    pub(super) endpoint: EndpointId,
    pub(super) ports: PublisherPorts,
    pub(super) shared: Arc<SharedIndex>,
    pub(super) counters: Arc<Handles<KvEventsPoolMetrics>>,
    pub(super) topic: Arc<[u8]>,
    /// How its ranks are doing, in order.
    pub(super) ranks: RankStatuses,
    /// Connections of its publishers; its one run holds them.
    pub(super) arrivals: AsyncMutex<mpsc::Receiver<Arrival>>,
}

/// How the ranks of one endpoint are doing. Clones share it.
pub(super) type RankStatuses = Arc<Mutex<Vec<Arc<Status>>>>;

// === EndpointFollower ===

impl EndpointFollower {
    /// Follows all ranks for ever.
    pub(super) async fn run(self: Arc<Self>) {
        let mut arrivals = self.arrivals.lock().await;
        loop {
            let first = tokio::select! {
                never = self.dial() => match never {},
                Some(first) = arrivals.recv() => first,
            };
            self.ranks.lock().clear();
            ArrivedRanks::new(&self).follow(first, &mut arrivals).await;
        }
    }

    /// Follows all ranks where their publishers listen.
    async fn dial(&self) -> Infallible {
        let mut rng = SeededRng::new(self.endpoint.0);
        loop {
            // Those of a run that has ended.
            self.ranks.lock().clear();
            let mut reported = self.ports.reported();
            let schedulers = *reported.borrow_and_update();
            let ranks = self.count(rng.next_u64()).await;
            let streams = (0..ranks).map(|rank| self.stream(rank, rng.next_u64()));
            let streams: Vec<Stream> = streams.collect();
            // Ranks of the engine without a publisher that is known. As nothing is known of their
            // caches, no block of the endpoint counts as absent.
            let _unfollowed: Vec<Ingest> = (ranks..schedulers)
                .map(|rank| {
                    let why = format!("not followed: the engine's metrics name this rank, and {ranks} publish by the configuration or the engine");
                    self.ingest(self.unfollowed(rank, why))
                })
                .collect();
            let following = streams
                .into_iter()
                .map(|stream| Box::pin(stream.follow(&self.ports, ranks)));
            // None ends before the engine has another number of ranks; then all start again.
            tokio::select! {
                _resized = select_all(following) => {}
                Ok(_) = reported.wait_for(|now| *now != schedulers) => {}
            }
        }
    }

    /// The number of ranks, as soon as it is known.
    async fn count(&self, seed: u64) -> u32 {
        let mut backoff = Backoff::new(BACKOFF, seed);
        loop {
            if let Some(ranks) = self.ports.ranks().await {
                return ranks.max(1);
            }
            self.counters.failures[StreamFailure::NoAddress].inc();
            time::sleep(backoff.next_pause()).await;
        }
    }

    fn stream(&self, rank: u32, seed: u64) -> Stream {
        let status = self.status(rank);
        Stream::new(
            self.ingest(Arc::clone(&status)),
            status,
            self.counters.clone(),
            Arc::clone(&self.topic),
            seed,
        )
    }

    /// The status of a rank that is not followed, and why.
    fn unfollowed(&self, rank: u32, why: String) -> Arc<Status> {
        let status = self.status(rank);
        status.now.lock().failure = Some(why);
        status
    }

    fn status(&self, rank: u32) -> Arc<Status> {
        let status = Arc::new(Status {
            rank,
            ..Status::default()
        });
        self.ranks.lock().push(Arc::clone(&status));
        status
    }

    fn ingest(&self, status: Arc<Status>) -> Ingest {
        Ingest::new(
            Arc::clone(&self.shared),
            self.endpoint,
            self.counters.clone(),
            status,
        )
    }
}
