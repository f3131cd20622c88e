//! Applies batches to the index, in slices, so that no lookup waits for long.
//!
//! Invariants:
//! * the index is locked for [`SLICE`] changes at a time, and after some slices other tasks get
//!   their turn;
//! * an event that cannot be decoded makes a rank partial; where the index may hold blocks that are
//!   gone, the rank is cleared;
//! * when the last of it is dropped, the rank leaves the index.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hermes_core::{
    block_index::{BlockChange, BlockCounts, BlockEvent, BlockIndex, RankBlocks, SyncState, Tier},
    snapshot::EndpointId,
};
use hermes_runtime::metrics::Handles;
use parking_lot::{Mutex, RwLock};
use tokio::{sync::Notify, task};

use super::{
    decode::{self, Batch},
    metrics::{BlockResult, ClearCause, KvEventsPoolMetrics},
};

/// Changes that are made under one lock: some tens of microseconds.
const SLICE: usize = 256;

/// Blocks after which other tasks get their turn.
const TURN: usize = 4_096;

/// The index of a pool, and the notification of its sweeper.
#[derive(Debug, Default)]
pub(super) struct SharedIndex {
    pub(super) residency: RwLock<BlockIndex>,
    leftovers: Notify,
}

/// The status of one rank's stream, for debug pages and metrics.
#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) rank: u32,
    pub(super) blocks: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// One more than the newest sequence number.
    pub(super) next: AtomicU64,
    pub(super) now: Mutex<Now>,
}

/// What is not a number.
#[derive(Clone, Debug, Default)]
pub(super) struct Now {
    pub(super) publisher: Arc<str>,
    pub(super) standing: SyncState,
    /// Why the last stream ended.
    pub(super) failure: Option<String>,
}

/// One rank's way into the index.
#[derive(Debug)]
pub(super) struct Ingest {
    shared: Arc<SharedIndex>,
    rank: RankBlocks,
    changes: Vec<BlockChange>,
    standing: SyncState,
    /// The stream works.
    live: bool,
    /// Every event since the engine started, or since its cache was cleared, was received.
    whole: bool,
    /// Some event since then could not be applied.
    is_lacking: bool,
    /// The rank exceeded the limit of blocks and is ignored.
    over_limit: bool,
    counters: Arc<Handles<KvEventsPoolMetrics>>,
    status: Arc<Status>,
}

// === SharedIndex ===

impl SharedIndex {
    /// Sweeps up after ranks that were emptied, for ever.
    pub(super) async fn sweep(self: Arc<Self>) {
        loop {
            while self.residency.write().sweep(SLICE) {
                task::yield_now().await;
            }
            self.leftovers.notified().await;
        }
    }
}

// === Ingest ===

impl Ingest {
    pub(super) fn new(
        shared: Arc<SharedIndex>,
        endpoint: EndpointId,
        counters: Arc<Handles<KvEventsPoolMetrics>>,
        status: Arc<Status>,
    ) -> Self {
        let rank = shared.residency.write().open(endpoint);
        Self {
            shared,
            rank,
            changes: Vec::new(),
            standing: SyncState::Unsynced,
            live: false,
            whole: false,
            is_lacking: false,
            over_limit: false,
            counters,
            status,
        }
    }

    /// The stream is broken: nothing is claimed, and what is known stays in case it goes on.
    pub(super) fn mark_unsynced(&mut self) {
        self.live = false;
        self.refresh();
    }

    /// The stream goes on: what is known counts.
    pub(super) fn mark_live(&mut self) {
        self.live = true;
        self.refresh();
    }

    /// Nothing is known any more, or everything if the engine has only begun.
    pub(super) fn clear(&mut self, cause: ClearCause, whole: bool) {
        tracing::debug!(
            rank = self.status.rank,
            cause = cause.name(),
            "all blocks of a rank are dropped"
        );
        self.counters.clears[cause].inc();
        self.changes.clear();
        self.shared
            .residency
            .write()
            .clear(&mut self.rank, self.standing);
        self.shared.leftovers.notify_one();
        (self.whole, self.over_limit) = (whole, cause == ClearCause::Overflow);
        self.is_lacking = cause == ClearCause::Undecodable;
        self.weigh();
        self.refresh();
    }

    /// Whether every event was received, live or by replay.
    pub(super) fn set_whole(&mut self, whole: bool) {
        self.whole = whole;
        self.refresh();
    }

    /// An event could not be applied, live or by replay: something is cached that is not known.
    fn mark_lacking(&mut self) {
        self.is_lacking = true;
        self.refresh();
    }

    /// Takes in one message's payload.
    pub(super) async fn take(&mut self, number: u64, payload: &[u8]) {
        self.counters.batches.inc();
        match decode::batch(payload) {
            Ok(batch) => self.take_batch(batch).await,
            Err(malformed) => {
                tracing::warn!(number, %malformed, "a batch of KV events is lost");
                self.counters.undecodable.inc();
                self.clear(ClearCause::Undecodable, false);
            }
        }
        self.status
            .next
            .store(number.saturating_add(1), Ordering::Relaxed);
        self.weigh();
    }

    async fn take_batch(&mut self, batch: Batch) {
        let Batch {
            events,
            unknown: _,
            unread_stored,
            unread_removed,
        } = batch;
        let mut turn = 0;
        for event in events {
            turn += self.take_event(&event);
            if turn >= TURN {
                turn = 0;
                task::yield_now().await;
            }
        }
        self.flush();
        self.counters
            .undecodable
            .inc_by((unread_stored + unread_removed).into());
        if unread_removed > 0 {
            self.clear(ClearCause::Undecodable, false);
        } else if unread_stored > 0 {
            self.mark_lacking();
        }
    }

    /// Applies one event. Returns how many blocks it lists.
    fn take_event(&mut self, event: &BlockEvent) -> usize {
        match event {
            BlockEvent::Cleared => {
                self.clear(ClearCause::Engine, true);
                1
            }
            _ if self.over_limit => 1,
            BlockEvent::Stored(stored) => {
                match self.rank.store(stored, &mut self.changes) {
                    Ok(tally) => self.count(tally, BlockResult::Stored, stored.tier),
                    Err(overfull) => {
                        tracing::warn!(rank = self.status.rank, %overfull, "ignoring KV events until the engine restarts");
                        self.clear(ClearCause::Overflow, false);
                    }
                }
                self.flush_when_full();
                stored.names.len()
            }
            BlockEvent::Removed(removed) => {
                let tally = self.rank.remove(removed, &mut self.changes);
                self.count(tally, BlockResult::Removed, removed.tier);
                self.flush_when_full();
                removed.names.len()
            }
        }
    }

    fn count(&mut self, tally: BlockCounts, result: BlockResult, tier: Tier) {
        let BlockCounts {
            applied: taken,
            skipped,
            orphaned: orphans,
            unknown,
        } = tally;
        for (result, blocks) in [
            (result, taken),
            (BlockResult::Skipped, skipped),
            (BlockResult::Orphan, orphans),
            (BlockResult::Unknown, unknown),
        ] {
            if blocks > 0 {
                self.counters.blocks[result].inc_by(blocks);
            }
        }
        // It holds something that is not known.
        if orphans > 0 && tier == Tier::Gpu {
            self.mark_lacking();
        }
    }

    fn flush_when_full(&mut self) {
        if self.changes.len() >= SLICE {
            self.flush();
        }
    }

    fn flush(&mut self) {
        for slice in self.changes.chunks(SLICE) {
            self.shared.residency.write().apply(&self.rank, slice);
        }
        self.changes.clear();
    }

    fn weigh(&self) {
        self.status
            .blocks
            .store(self.rank.blocks() as u64, Ordering::Relaxed);
        self.status
            .bytes
            .store(self.rank.bytes() as u64, Ordering::Relaxed);
    }

    /// Lets the standing follow what is known.
    fn refresh(&mut self) {
        let is_whole = self.whole && !self.is_lacking;
        let standing = match (self.live && !self.over_limit, is_whole) {
            (false, _) => SyncState::Unsynced,
            (true, true) => SyncState::Synced,
            (true, false) => SyncState::Partial,
        };
        if self.standing != standing {
            self.standing = standing;
            self.shared
                .residency
                .write()
                .set_sync_state(&self.rank, standing);
            self.status.now.lock().standing = standing;
        }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.shared.residency.write().close(&mut self.rank);
        self.shared.leftovers.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::{super::KvEventsMetrics, *};

    fn ingest() -> Ingest {
        let counters = KvEventsMetrics::register(&mut Registry::default()).pool(&"chat".into());
        Ingest::new(
            Arc::default(),
            EndpointId(1),
            counters,
            Arc::new(Status::default()),
        )
    }

    /// A batch with one event of this type that has no fields.
    fn batch_of(tag: &str) -> Vec<u8> {
        let mut payload = vec![0x92, 0xc0, 0x91, 0x91, 0xa0 + tag.len() as u8];
        payload.extend(tag.as_bytes());
        payload
    }

    #[tokio::test]
    async fn a_replay_with_events_that_cannot_be_read_leaves_a_rank_partial() {
        for tag in ["BlockStored", "BlockRemoved"] {
            let mut ingest = ingest();
            ingest.clear(ClearCause::Restart, false);
            ingest.take(0, &batch_of(tag)).await;
            // The replay was complete.
            ingest.set_whole(true);
            ingest.mark_live();
            assert_eq!(ingest.standing, SyncState::Partial, "{tag}");
            ingest.take(1, &batch_of("AllBlocksCleared")).await;
            assert_eq!(
                ingest.standing,
                SyncState::Synced,
                "all of nothing is known"
            );
        }
    }
}
