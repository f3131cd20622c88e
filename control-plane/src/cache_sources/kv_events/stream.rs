//! Follows the stream of one rank: connects, or is connected to; catches up, takes in what comes,
//! and begins again when it breaks.
//!
//! ```text
//!   connect ─▶ subscribe ─▶ catch up (replay) ─▶ live ──▶ next: take in
//!      ▲                        ▲                  │ ├──▶ gap: replay, or drop all blocks
//!      │                        └── restart ───────┘ └──▶ known: skip
//!      └── back off ◀── broken, silent ◀── the rank claims nothing meanwhile
//! ```
//!
//! After a broken connection the publisher may be another one, under the same address. It is the
//! same if its replay still has the newest batch that was taken in, byte for byte; if not, or if
//! there is no replay, all blocks are dropped.

mod arrived;
mod catch_up;

use std::{sync::Arc, time::Duration};

use hermes_core::backoff::Backoff;
use hermes_runtime::metrics::Handles;
use tokio::time::{self, Instant, timeout};

use super::{
    ingest::{Ingest, Status},
    live_peer::{LivePeer, StreamLoss},
    metrics::{ClearCause, KvEventsPoolMetrics, StreamFailure},
    replay::{self, ReplayedBatch},
    sequence::{BatchOrder, Sequence},
    source::{PublisherAddress, PublisherPlace, PublisherPorts, RankCountChanged},
    zmtp::{Message, Peer, Socket, ZmtpError},
};

/// Longest time for a connection and its handshake.
const CONNECT: Duration = Duration::from_secs(3);

/// How long the publisher may take to notice the subscription before the replay is asked for.
const NOTICE: Duration = Duration::from_secs(1);

/// The first pause after a stream broke, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// One rank's stream.
#[derive(Debug)]
pub(super) struct Stream {
    ingest: Ingest,
    status: Arc<Status>,
    sequence: Sequence,
    counters: Arc<Handles<KvEventsPoolMetrics>>,
    topic: Arc<[u8]>,
    /// The rank that the batches of a publisher name that dialed: its replay may be another rank's.
    named_rank: Option<u32>,
    backoff: Backoff,
    /// The current failure was logged already.
    quiet: bool,
}

// === Stream ===

impl Stream {
    /// A stream that has not begun.
    pub(super) fn new(
        ingest: Ingest,
        status: Arc<Status>,
        counters: Arc<Handles<KvEventsPoolMetrics>>,
        topic: Arc<[u8]>,
        seed: u64,
    ) -> Self {
        Self {
            ingest,
            status,
            sequence: Sequence::default(),
            counters,
            topic,
            named_rank: None,
            backoff: Backoff::new(BACKOFF, seed),
            quiet: true,
        }
    }

    /// Follows it until the engine says that it has another number of ranks than `of`.
    pub(super) async fn follow(
        mut self,
        whereabouts: &PublisherPorts,
        of: u32,
    ) -> RankCountChanged {
        loop {
            let began = Instant::now();
            let lost = match whereabouts.place(self.status.rank, of).await {
                Err(resized) => return resized,
                Ok(PublisherPlace::Unknown) => StreamLoss(
                    StreamFailure::NoAddress,
                    "the engine does not say where its publisher is".to_owned(),
                ),
                Ok(PublisherPlace::Dials) => StreamLoss(
                    StreamFailure::Awaited,
                    "the publisher dials, and has sent nothing to this replica yet".to_owned(),
                ),
                Ok(PublisherPlace::At(place)) => self.session(&place).await,
            };
            self.ends(lost);
            if began.elapsed() > BACKOFF.1 {
                self.backoff.reset();
            }
            time::sleep(self.backoff.next_pause()).await;
        }
    }

    /// One connection, until it breaks.
    async fn session(&mut self, place: &PublisherAddress) -> StreamLoss {
        self.status.now.lock().publisher = Arc::clone(&place.publisher);
        let connected = timeout(CONNECT, async {
            let mut peer = Peer::connect(&place.publisher, Socket::Sub).await?;
            peer.subscribe(&self.topic).await?;
            peer.ping().await?;
            Ok::<_, ZmtpError>(peer)
        });
        let mut peer = match connected.await {
            Err(_late) => {
                return StreamLoss(
                    StreamFailure::Timeout,
                    format!("no handshake within {CONNECT:?}"),
                );
            }
            Ok(Err(error)) => return error.into(),
            Ok(Ok(peer)) => peer,
        };
        // A publisher takes note of what it is sent in order: once it answers, no batch after the
        // replay is missed.
        let first = match timeout(NOTICE, peer.next()).await {
            Err(_silent) => None,
            Ok(Ok(message)) => message,
            Ok(Err(error)) => return error.into(),
        };
        self.sequence.reconnected();
        self.catch_up(place).await;
        self.begins(place);
        if let Some(first) = first {
            self.arrives(first, place).await;
        }
        self.live(LivePeer::new(peer), place).await
    }

    /// Takes in what comes until the stream breaks.
    async fn live(&mut self, mut peer: LivePeer, place: &PublisherAddress) -> StreamLoss {
        loop {
            match peer.next().await {
                Ok(message) => self.arrives(message, place).await,
                Err(lost) => return lost,
            }
        }
    }

    /// One message of the publisher.
    async fn arrives(&mut self, message: Message, place: &PublisherAddress) {
        let Some(ReplayedBatch { number, payload }) = replay::read(message) else {
            return;
        };
        match self.sequence.judge(number) {
            BatchOrder::Known => return,
            BatchOrder::Next => {}
            BatchOrder::First => self.ingest.set_whole(number == 0),
            BatchOrder::Gap(from) => {
                self.counters.gaps.inc();
                tracing::debug!(
                    rank = self.status.rank,
                    from,
                    to = number,
                    "batches of KV events are missing"
                );
                self.fill(from, place).await;
            }
            BatchOrder::Restart => {
                self.ingest.clear(ClearCause::Restart, false);
                self.catch_up(place).await;
            }
        }
        // The replay may have contained this one, too.
        if self.sequence.next().is_none_or(|next| number >= next) {
            self.take(number, &payload).await;
        }
    }

    /// The stream works.
    fn begins(&mut self, place: &PublisherAddress) {
        let PublisherAddress { publisher, replay } = place;
        tracing::info!(
            publisher = &**publisher,
            ?replay,
            rank = self.status.rank,
            "KV events are followed"
        );
        self.quiet = true;
        self.status.now.lock().failure = None;
        self.ingest.mark_live();
    }

    /// It does not any more, or never did.
    fn ends(&mut self, lost: StreamLoss) {
        let StreamLoss(failure, words) = lost;
        self.ingest.mark_unsynced();
        self.counters.failures[failure].inc();
        let mut now = self.status.now.lock();
        if std::mem::take(&mut self.quiet) {
            tracing::warn!(
                publisher = &*now.publisher,
                rank = self.status.rank,
                reason = words,
                "no KV events, trying again"
            );
        }
        now.failure = Some(words);
    }
}
