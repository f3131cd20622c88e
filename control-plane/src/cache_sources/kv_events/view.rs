//! How the streams of a pool are doing, for people and for metrics.

use std::sync::{Arc, atomic::Ordering};

use hermes_core::{address::ServerAddress, block_index::SyncState, snapshot::EndpointId};
use serde::Serialize;

use super::ingest::Status;

/// One pool's KV events.
#[derive(Clone, Debug, Serialize)]
pub struct PoolStreams {
    /// Distinct blocks in the index.
    pub blocks: usize,
    /// About how many bytes the index takes, all ranks included.
    pub bytes: u64,
    /// Every rank of every endpoint that is followed.
    pub streams: Vec<StreamView>,
}

/// One rank's stream.
#[derive(Clone, Debug, Serialize)]
pub struct StreamView {
    /// Whose.
    pub endpoint: EndpointId,
    /// Where the endpoint is.
    #[serde(flatten)]
    pub address: ServerAddress,
    /// Data-parallel rank.
    pub rank: u32,
    /// `host:port`, once it is known.
    pub publisher: Arc<str>,
    /// `synced` (every cached block is known), `partial` (some are), `unsynced` (none count).
    pub standing: &'static str,
    /// The sequence number that comes next.
    pub next: u64,
    /// Blocks that it holds.
    pub blocks: u64,
    /// Why there is no stream now.
    pub failure: Option<String>,
    #[serde(skip)]
    pub(super) bytes: u64,
}

/// Standings in the order of their names in metrics.
pub(crate) const STANDINGS: [SyncState; 3] =
    [SyncState::Synced, SyncState::Partial, SyncState::Unsynced];

// === StreamView ===

impl StreamView {
    pub(super) fn of(endpoint: EndpointId, address: &ServerAddress, status: &Status) -> Self {
        let now = status.now.lock().clone();
        Self {
            endpoint,
            address: address.clone(),
            rank: status.rank,
            publisher: now.publisher,
            standing: standing_name(now.standing),
            next: status.next.load(Ordering::Relaxed),
            blocks: status.blocks.load(Ordering::Relaxed),
            failure: now.failure,
            bytes: status.bytes.load(Ordering::Relaxed),
        }
    }
}

/// Its name in metrics and on pages.
pub(crate) const fn standing_name(standing: SyncState) -> &'static str {
    match standing {
        SyncState::Synced => "synced",
        SyncState::Partial => "partial",
        SyncState::Unsynced => "unsynced",
    }
}
