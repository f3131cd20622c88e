//! Metrics of KV-event streams, and of lookups in the index that they fill.

use std::sync::Arc;

use hermes_runtime::{
    label_set,
    metrics::{
        Bounds, HandleCache, Handles, HistogramFamily, PerValue, PoolLabels, SeriesScope, family,
    },
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// In seconds: from a prompt that is cached nowhere to a long one in a large fleet that waits for a
/// writer.
const LOOKUP: Bounds = Bounds(&[
    0.000_001, 0.000_002, 0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5,
    0.001, 0.002_5, 0.005,
]);

label_set! {
    /// What became of a block in an event.
    pub(super) enum BlockResult {
        /// Stored.
        Stored = "stored",
        /// Removed.
        Removed = "removed",
        /// Of a group or size that is not indexed.
        Skipped = "skipped",
        /// Stored after a parent that is not in the index.
        Orphan = "orphan",
        /// Removed, but not in the index.
        Unknown = "unknown",
    }
}

label_set! {
    /// How a replay ended.
    pub(super) enum ReplayOutcome {
        /// Every batch from the requested number on arrived.
        Complete = "complete",
        /// The publisher's buffer did not go back far enough, or the publisher is another one.
        Incomplete = "incomplete",
        /// There was none.
        Failed = "failed",
    }
}

label_set! {
    /// Why all blocks of a rank were dropped.
    pub(super) enum ClearCause {
        /// The engine cleared its cache.
        Engine = "engine",
        /// The engine restarted.
        Restart = "restart",
        /// Batches are missing and cannot be replayed.
        Gap = "gap",
        /// A batch or a removal could not be decoded.
        Undecodable = "undecodable",
        /// The engine stored more blocks than the index accepts for one rank.
        Overflow = "overflow",
    }
}

label_set! {
    /// Why a stream ended, or could not be opened.
    pub(super) enum StreamFailure {
        /// The engine does not publish its publisher's address.
        NoAddress = "no_address",
        /// The publisher dials, and has sent nothing to this replica.
        Awaited = "awaited",
        /// The address refused the connection.
        ConnectFailed = "connect_failed",
        /// No connection, or no handshake, in time.
        Timeout = "timeout",
        /// The connection ended.
        ConnectionBroken = "connection_broken",
        /// The publisher did not answer pings.
        PingTimeout = "ping_timeout",
        /// The peer is no publisher.
        Protocol = "protocol",
    }
}

label_set! {
    /// What became of a publisher that dialed this replica.
    pub(super) enum ArrivalOutcome {
        /// Its stream is followed.
        Accepted = "accepted",
        /// It does not shake hands as a publisher does, or not in time.
        NoHandshake = "no_handshake",
        /// There are too many connections, of all or of its address.
        TooMany = "too_many",
        /// Its message is no batch of KV events.
        Undecodable = "undecodable",
        /// No pool that follows KV events has the endpoint.
        UnknownEndpoint = "unknown_endpoint",
        /// Several endpoints have the address.
        AmbiguousEndpoint = "ambiguous_endpoint",
        /// It has another address than the endpoint that it names.
        OtherAddress = "other_address",
        /// Another connection brings the events of that rank.
        Duplicate = "duplicate",
    }
}

/// The families of all pools; cheap to clone.
#[derive(Clone, Debug)]
pub struct KvEventsMetrics {
    batches: Family<PoolLabels, Counter>,
    blocks: Family<BlockLabels, Counter>,
    gaps: Family<PoolLabels, Counter>,
    replays: Family<ReplayLabels, Counter>,
    clears: Family<ClearLabels, Counter>,
    failures: Family<StreamFailureLabels, Counter>,
    undecodable: Family<PoolLabels, Counter>,
    lookup: HistogramFamily<PoolLabels>,
    /// Publishers that dialed, by outcome.
    pub(super) arrivals: PerValue<ArrivalOutcome, Counter>,
    /// Open connections of publishers that dialed.
    pub(super) connections: Gauge,
    /// Replicas that pass on what they receive.
    pub(super) replicas: Gauge,
    pools: HandleCache<Arc<str>, KvEventsPoolMetrics>,
}

/// The handles of one pool.
#[derive(Debug)]
pub(super) struct KvEventsPoolMetrics {
    pub(super) batches: Counter,
    /// Batches and events that could not be decoded.
    pub(super) undecodable: Counter,
    pub(super) gaps: Counter,
    pub(super) lookup: Histogram,
    pub(super) blocks: PerValue<BlockResult, Counter>,
    pub(super) replays: PerValue<ReplayOutcome, Counter>,
    pub(super) clears: PerValue<ClearCause, Counter>,
    pub(super) failures: PerValue<StreamFailure, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BlockLabels {
    pool: Arc<str>,
    result: BlockResult,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReplayLabels {
    pool: Arc<str>,
    outcome: ReplayOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClearLabels {
    pool: Arc<str>,
    cause: ClearCause,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ArrivalLabels {
    outcome: ArrivalOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamFailureLabels {
    pool: Arc<str>,
    reason: StreamFailure,
}

// === KvEventsMetrics ===

impl KvEventsMetrics {
    /// Declares the families in `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("hermes_kv_events");
        let arrivals: Family<ArrivalLabels, Counter> = family(
            registry,
            "arrivals",
            "Publishers that dialed this replica, by outcome",
        );
        Self {
            batches: family(
                registry,
                "batches",
                "Batches of KV events that were received",
            ),
            blocks: family(registry, "blocks", "Blocks in KV events, by result"),
            gaps: family(registry, "gaps", "Gaps in streams of KV events"),
            replays: family(registry, "replays", "Requested replays, by outcome"),
            clears: family(
                registry,
                "clears",
                "Times that all blocks of a rank were dropped, by cause",
            ),
            failures: family(
                registry,
                "failures",
                "KV-event streams that ended or could not be opened, by reason",
            ),
            undecodable: family(
                registry,
                "undecodable",
                "Batches and events that could not be decoded",
            ),
            lookup: LOOKUP.family(
                registry,
                "lookup_duration_seconds",
                "Time to look a prompt up in the index, waiting for its lock included",
            ),
            arrivals: PerValue::new(|outcome| {
                arrivals.get_or_create_owned(&ArrivalLabels { outcome })
            }),
            connections: family(
                registry,
                "connections",
                "Open connections of publishers that dialed this replica",
            ),
            replicas: family(
                registry,
                "replicas",
                "Other replicas whose KV events of publishers that dial are followed",
            ),
            pools: HandleCache::default(),
        }
    }

    /// The handles of a pool. Its series are removed when they are dropped.
    pub(super) fn pool(&self, pool: &Arc<str>) -> Arc<Handles<KvEventsPoolMetrics>> {
        self.pools.get(pool, |series| self.resolve(pool, series))
    }

    fn resolve(&self, pool: &Arc<str>, series: &mut SeriesScope) -> KvEventsPoolMetrics {
        let name = || Arc::clone(pool);
        let labels = || PoolLabels::new(pool);
        KvEventsPoolMetrics {
            batches: series.handle(&self.batches, labels()),
            undecodable: series.handle(&self.undecodable, labels()),
            gaps: series.handle(&self.gaps, labels()),
            lookup: series.handle(&self.lookup, labels()),
            blocks: PerValue::new(|result| {
                let pool = name();
                series.handle(&self.blocks, BlockLabels { pool, result })
            }),
            replays: PerValue::new(|outcome| {
                let pool = name();
                series.handle(&self.replays, ReplayLabels { pool, outcome })
            }),
            clears: PerValue::new(|cause| {
                let pool = name();
                series.handle(&self.clears, ClearLabels { pool, cause })
            }),
            failures: PerValue::new(|reason| {
                let pool = name();
                series.handle(&self.failures, StreamFailureLabels { pool, reason })
            }),
        }
    }
}
