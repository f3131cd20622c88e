//! What the followers of KV events say about their work.

use std::sync::Arc;

use hermes_runtime::metrics::{Bounds, HistogramFamily};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// From a prompt that nobody holds to a long one in a large fleet behind a writer.
const LOOKUP_SECONDS: &[f64] = &[
    0.000_001, 0.000_002, 0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5,
    0.001, 0.002_5, 0.005,
];

/// The families of all pools; cheap to clone.
#[derive(Clone, Debug)]
pub struct KvEventsMetrics {
    batches: Family<PoolLabels, Counter>,
    blocks: Family<BlockLabels, Counter>,
    gaps: Family<PoolLabels, Counter>,
    replays: Family<ReplayLabels, Counter>,
    clears: Family<ClearLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    unread: Family<PoolLabels, Counter>,
    lookups: HistogramFamily<PoolLabels>,
}

/// The handles of one pool.
#[derive(Clone, Debug)]
pub(super) struct PoolCounters {
    pub(super) batches: Counter,
    /// Batches and events that could not be understood.
    pub(super) unread: Counter,
    pub(super) gaps: Counter,
    pub(super) lookups: Histogram,
    blocks: [Counter; Fate::ALL.len()],
    replays: [Counter; Replayed::ALL.len()],
    clears: [Counter; Cleared::ALL.len()],
    failures: [Counter; Failure::ALL.len()],
}

/// What became of a block that an event told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Fate {
    Stored,
    Removed,
    /// Of a group or size that does not count.
    Skipped,
    /// Its parent was never heard of.
    Orphan,
    /// It was never heard of.
    Unknown,
}

/// How a replay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Replayed {
    /// It told everything that was asked for.
    Whole,
    /// Its buffer did not go back far enough, or the publisher is another one.
    Short,
    /// There was none.
    Failed,
}

/// Why a rank was emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Cleared {
    /// The engine said so.
    Told,
    /// The engine restarted.
    Restart,
    /// Batches were lost for good.
    Lost,
    /// Something came that could not be understood.
    Unread,
    /// There were more blocks than one rank can have.
    Overfull,
}

/// Why a stream broke, or did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Failure {
    /// The engine does not say where its publisher is.
    Unlocated,
    /// Nobody listens there.
    Refused,
    /// No connection, or no handshake, in time.
    Timeout,
    /// The connection ended.
    Broken,
    /// The publisher did not answer a ping.
    Silent,
    /// Something else than a publisher is there.
    Protocol,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BlockLabels {
    pool: Arc<str>,
    fate: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReplayLabels {
    pool: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClearLabels {
    pool: Arc<str>,
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    pool: Arc<str>,
    kind: &'static str,
}

// === KvEventsMetrics ===

impl KvEventsMetrics {
    /// Declares the families in `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            batches: Family::default(),
            blocks: Family::default(),
            gaps: Family::default(),
            replays: Family::default(),
            clears: Family::default(),
            failures: Family::default(),
            unread: Family::default(),
            lookups: Bounds(LOOKUP_SECONDS).family(),
        };
        let Self {
            batches,
            blocks,
            gaps,
            replays,
            clears,
            failures,
            unread,
            lookups,
        } = metrics.clone();
        registry.register(
            "hermes_kv_events_batches",
            "Batches of KV events that were taken in",
            batches,
        );
        registry.register(
            "hermes_kv_events_blocks",
            "Blocks that KV events told of, by what became of them",
            blocks,
        );
        registry.register(
            "hermes_kv_events_gaps",
            "Gaps in streams of KV events",
            gaps,
        );
        registry.register(
            "hermes_kv_events_replays",
            "Replays that were asked for, by how they ended",
            replays,
        );
        registry.register(
            "hermes_kv_events_clears",
            "Times that all blocks of a rank were dropped, by the cause",
            clears,
        );
        registry.register(
            "hermes_kv_events_failures",
            "Streams of KV events that broke or did not come about, by the reason",
            failures,
        );
        registry.register(
            "hermes_kv_events_unread",
            "Batches and events that were not understood",
            unread,
        );
        registry.register(
            "hermes_kv_events_lookup_duration_seconds",
            "Time to look a prompt up in the index, waiting for its lock included",
            lookups,
        );
        metrics
    }

    /// The handles of a pool.
    pub(super) fn pool(&self, pool: &Arc<str>) -> PoolCounters {
        let labels = PoolLabels {
            pool: Arc::clone(pool),
        };
        let blocks = |fate: Fate| BlockLabels {
            pool: Arc::clone(pool),
            fate: fate.name(),
        };
        let replays = |outcome: Replayed| ReplayLabels {
            pool: Arc::clone(pool),
            outcome: outcome.name(),
        };
        let clears = |cause: Cleared| ClearLabels {
            pool: Arc::clone(pool),
            cause: cause.name(),
        };
        let failures = |kind: Failure| FailureLabels {
            pool: Arc::clone(pool),
            kind: kind.name(),
        };
        PoolCounters {
            batches: self.batches.get_or_create(&labels).clone(),
            unread: self.unread.get_or_create(&labels).clone(),
            gaps: self.gaps.get_or_create(&labels).clone(),
            lookups: self.lookups.get_or_create(&labels).clone(),
            blocks: Fate::ALL.map(|fate| self.blocks.get_or_create(&blocks(fate)).clone()),
            replays: Replayed::ALL
                .map(|outcome| self.replays.get_or_create(&replays(outcome)).clone()),
            clears: Cleared::ALL.map(|cause| self.clears.get_or_create(&clears(cause)).clone()),
            failures: Failure::ALL.map(|kind| self.failures.get_or_create(&failures(kind)).clone()),
        }
    }

    /// Ends the series of a pool that is gone.
    pub(crate) fn forget(&self, pool: &Arc<str>) {
        let labels = PoolLabels {
            pool: Arc::clone(pool),
        };
        [&self.batches, &self.unread, &self.gaps]
            .iter()
            .for_each(|family| {
                family.remove(&labels);
            });
        self.lookups.remove(&labels);
        for fate in Fate::ALL {
            self.blocks.remove(&BlockLabels {
                pool: Arc::clone(pool),
                fate: fate.name(),
            });
        }
        for outcome in Replayed::ALL {
            self.replays.remove(&ReplayLabels {
                pool: Arc::clone(pool),
                outcome: outcome.name(),
            });
        }
        for cause in Cleared::ALL {
            self.clears.remove(&ClearLabels {
                pool: Arc::clone(pool),
                cause: cause.name(),
            });
        }
        for kind in Failure::ALL {
            self.failures.remove(&FailureLabels {
                pool: Arc::clone(pool),
                kind: kind.name(),
            });
        }
    }
}

// === PoolCounters ===

impl PoolCounters {
    pub(super) fn blocks(&self, fate: Fate, blocks: u64) {
        self.blocks[fate as usize].inc_by(blocks);
    }

    pub(super) fn replayed(&self, outcome: Replayed) {
        self.replays[outcome as usize].inc();
    }

    pub(super) fn cleared(&self, cause: Cleared) {
        self.clears[cause as usize].inc();
    }

    pub(super) fn failed(&self, kind: Failure) {
        self.failures[kind as usize].inc();
    }
}

// === Fate ===

impl Fate {
    const ALL: [Self; 5] = [
        Self::Stored,
        Self::Removed,
        Self::Skipped,
        Self::Orphan,
        Self::Unknown,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Removed => "removed",
            Self::Skipped => "skipped",
            Self::Orphan => "orphan",
            Self::Unknown => "unknown",
        }
    }
}

// === Replayed ===

impl Replayed {
    const ALL: [Self; 3] = [Self::Whole, Self::Short, Self::Failed];

    const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Short => "short",
            Self::Failed => "failed",
        }
    }
}

// === Cleared ===

impl Cleared {
    const ALL: [Self; 5] = [
        Self::Told,
        Self::Restart,
        Self::Lost,
        Self::Unread,
        Self::Overfull,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Told => "told",
            Self::Restart => "restart",
            Self::Lost => "lost",
            Self::Unread => "unread",
            Self::Overfull => "overfull",
        }
    }
}

// === Failure ===

impl Failure {
    const ALL: [Self; 6] = [
        Self::Unlocated,
        Self::Refused,
        Self::Timeout,
        Self::Broken,
        Self::Silent,
        Self::Protocol,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Unlocated => "unlocated",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::Silent => "silent",
            Self::Protocol => "protocol",
        }
    }
}
