//! What the proxy receives from the control plane and reports to it.

use std::sync::atomic::AtomicU64;

use hermes_runtime::{
    label_set,
    metrics::{PerValue, family},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

label_set! {
    /// What became of a snapshot or delta.
    pub(crate) enum SnapshotResult {
        /// It was applied.
        Accepted = "accepted",
        /// This proxy cannot use it.
        Rejected = "rejected",
    }
}

/// The families of the streams to the control plane.
pub(crate) struct SyncMetrics {
    pub(crate) connected_control_planes: Gauge,
    pub(crate) snapshot_version: Gauge,
    pub(crate) snapshots: PerValue<SnapshotResult, Counter>,
    pub(crate) load_age: Gauge<f64, AtomicU64>,
    pub(crate) reports_dropped: Counter,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SnapshotLabels {
    outcome: SnapshotResult,
}

// === SyncMetrics ===

impl SyncMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let snapshots: Family<SnapshotLabels, Counter> = family(
            registry,
            "hermes_snapshots",
            "Received snapshots and deltas, by whether they could be used",
        );
        Self {
            connected_control_planes: family(
                registry,
                "hermes_connected_control_planes",
                "Control-plane replicas that this proxy is connected to; at 0 it routes by its last snapshot",
            ),
            snapshot_version: family(
                registry,
                "hermes_snapshot_version",
                "Version of the snapshot in use, within its epoch",
            ),
            snapshots: PerValue::new(|outcome| {
                snapshots.get_or_create_owned(&SnapshotLabels { outcome })
            }),
            load_age: family(
                registry,
                "hermes_load_age_seconds",
                "Age of the newest load update from the control plane",
            ),
            reports_dropped: family(
                registry,
                "hermes_reports_dropped",
                "Reports dropped because the control plane reads them too slowly; each drop is followed by a resync",
            ),
        }
    }
}
