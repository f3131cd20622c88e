//! What one subscriber has of the loads, and the next update that brings it to the newest.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use hermes_core::{ledger::ProxyId, snapshot::Snapshot};

use crate::pools::{PoolDirectory, PoolLoadCursor, PoolScheduler};

/// One subscriber's view.
#[derive(Debug)]
pub(super) struct LoadCursor {
    proxy: ProxyId,
    /// The proxy uses the rows of this replica.
    is_wanted: bool,
    /// By the name of the pool. The scheduler is that which the cursor is of: a pool that was
    /// removed and added again has another.
    pools: HashMap<Arc<str>, (Arc<PoolScheduler>, PoolLoadCursor)>,
}

// === LoadCursor ===

impl LoadCursor {
    /// Of a proxy that was sent nothing yet.
    pub(super) fn new(proxy: ProxyId) -> Self {
        Self {
            proxy,
            is_wanted: true,
            pools: HashMap::new(),
        }
    }

    /// Whether updates are sent at all.
    pub(super) const fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// The proxy begins or ceases to use the rows of this replica.
    pub(super) fn set_wanted(&mut self, is_wanted: bool) {
        if self.is_wanted != is_wanted {
            self.is_wanted = is_wanted;
            self.clear();
        }
    }

    /// All rows follow.
    pub(super) fn clear(&mut self) {
        self.pools.clear();
    }

    /// The rows that a proxy which has the snapshot `known` lacks, an encoded `v1.LoadUpdate`;
    /// `None` when it lacks none.
    pub(super) fn next(&mut self, known: &Snapshot, pools: &PoolDirectory) -> Option<Bytes> {
        let Self { proxy, .. } = *self;
        let (now, mut pieces) = (pools.now(), Vec::new());
        self.pools.retain(|name, _| known.pool(name).is_some());
        for pool in &known.pools {
            let Some(handle) = pools.pool(&pool.spec.name) else {
                continue;
            };
            let scheduler = handle.scheduler;
            let (of, cursor) = self
                .pools
                .entry(Arc::clone(&pool.spec.name))
                .or_insert_with(|| (Arc::clone(&scheduler), PoolLoadCursor::default()));
            if !Arc::ptr_eq(of, &scheduler) {
                (*of, *cursor) = (Arc::clone(&scheduler), PoolLoadCursor::default());
            }
            scheduler.next_loads(proxy, pool, cursor, now, &mut pieces);
        }
        // Messages of one kind one after the other are one message with the items of all.
        match pieces.len() {
            0 => None,
            1 => pieces.pop(),
            _ => Some(pieces.concat().into()),
        }
    }
}
