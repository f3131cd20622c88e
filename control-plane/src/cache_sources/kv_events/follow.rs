//! Follows one endpoint: finds out how many ranks it has, and follows each.

use std::{sync::Arc, time::Duration};

use futures::future::select_all;
use hermes_core::{backoff::Backoff, rng::SeededRng, snapshot::EndpointId};
use hermes_runtime::metrics::Handles;
use parking_lot::Mutex;
use tokio::time;

use super::{
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
}

/// How the ranks of one endpoint are doing. Clones share it.
pub(super) type RankStatuses = Arc<Mutex<Vec<Arc<Status>>>>;

// === EndpointFollower ===

impl EndpointFollower {
    /// Follows all ranks for ever.
    pub(super) async fn run(self: Arc<Self>) {
        let mut rng = SeededRng::new(self.endpoint.0);
        loop {
            // Those of a run that has ended.
            self.ranks.lock().clear();
            let ranks = self.count(rng.next_u64()).await;
            let streams = (0..ranks).map(|rank| self.stream(rank, rng.next_u64()));
            let streams: Vec<Stream> = streams.collect();
            let following = streams
                .into_iter()
                .map(|stream| Box::pin(stream.follow(&self.ports, ranks)));
            // None ends before the engine has another number of ranks; then all start again.
            let _resized = select_all(following).await;
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
        let status = Arc::new(Status {
            rank,
            ..Status::default()
        });
        self.ranks.lock().push(Arc::clone(&status));
        let ingest = Ingest::new(
            Arc::clone(&self.shared),
            self.endpoint,
            self.counters.clone(),
            Arc::clone(&status),
        );
        Stream::new(
            ingest,
            status,
            self.counters.clone(),
            Arc::clone(&self.topic),
            seed,
        )
    }
}
