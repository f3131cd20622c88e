//! Objects as metrics.

use std::collections::BTreeMap;

use hermes_runtime::{
    label_set,
    metrics::{LabelSet, PerValue, family},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{catalog::ObjectKey, kind::ObjectKind, verdict::ObjectVerdict};

label_set! {
    /// A kind of objects, whatever its API group.
    pub(crate) enum KindLabel {
        /// `InferencePool`.
        Pool = "InferencePool",
        /// `InferenceModel`.
        Model = "InferenceModel",
        /// `InferenceObjective`.
        Objective = "InferenceObjective",
        /// `InferenceModelRewrite`.
        Rewrite = "InferenceModelRewrite",
        /// `GatewayClass`.
        GatewayClass = "GatewayClass",
        /// `Gateway`.
        Gateway = "Gateway",
        /// `HTTPRoute`.
        Route = "HTTPRoute",
        /// `ReferenceGrant`.
        Grant = "ReferenceGrant",
        /// `Namespace`.
        Namespace = "Namespace",
        /// `Service`.
        Service = "Service",
    }
}

label_set! {
    /// What became of an object.
    pub(crate) enum ObjectState {
        /// It is in use.
        Accepted = "accepted",
        /// It is in use, and some of it is not.
        Partial = "partial",
        /// It is not in use.
        Refused = "refused",
        /// It is for another picker, or for no pool.
        Foreign = "foreign",
    }
}

label_set! {
    /// How writing a condition ended.
    pub(crate) enum WriteOutcome {
        /// It is in the object.
        Written = "written",
        /// The API server refused it, or could not be reached.
        Refused = "refused",
        /// Another writer was faster; it is written again.
        Conflict = "conflict",
        /// There was no answer in time.
        Timeout = "timeout",
    }
}

/// The families of objects. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct ObjectMetrics {
    objects: Family<ObjectLabels, Gauge>,
    watch_failures: PerValue<KindLabel, Counter>,
    status_writes: PerValue<WriteOutcome, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectLabels {
    kind: KindLabel,
    state: ObjectState,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    kind: KindLabel,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabels {
    outcome: WriteOutcome,
}

// === ObjectMetrics ===

impl ObjectMetrics {
    /// Declares the families in `registry`.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("hermes_control_plane");
        let failures: Family<WatchLabels, Counter> = family(
            registry,
            "object_watch_failures",
            "Watches on objects that are configuration which failed, by kind",
        );
        let writes: Family<WriteLabels, Counter> = family(
            registry,
            "object_status_writes",
            "Conditions that were written into the status of objects, by outcome: written, refused, conflict, timeout",
        );
        Self {
            status_writes: PerValue::new(|outcome| {
                writes.get_or_create_owned(&WriteLabels { outcome })
            }),
            objects: family(
                registry,
                "objects",
                "Objects that are configuration, by kind and state: accepted, partial, refused, foreign",
            ),
            watch_failures: PerValue::new(|kind| {
                failures.get_or_create_owned(&WatchLabels { kind })
            }),
        }
    }

    /// Counts what became of all objects.
    pub(super) fn count(&self, verdicts: &BTreeMap<ObjectKey, ObjectVerdict>) {
        for &kind in KindLabel::ALL {
            for &state in ObjectState::ALL {
                let count = verdicts
                    .iter()
                    .filter(|((of, ..), verdict)| {
                        KindLabel::of(*of) == kind && ObjectState::of(verdict) == state
                    })
                    .count();
                let labels = ObjectLabels { kind, state };
                let gauge = self.objects.get_or_create(&labels);
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
    }

    pub(super) fn status_written(&self, outcome: WriteOutcome) {
        self.status_writes[outcome].inc();
    }

    pub(super) fn watch_failed(&self, kind: ObjectKind) {
        self.watch_failures[KindLabel::of(kind)].inc();
    }
}

// === KindLabel ===

impl KindLabel {
    fn of(kind: ObjectKind) -> Self {
        match kind {
            ObjectKind::Pool | ObjectKind::EarlierPool => Self::Pool,
            ObjectKind::Model => Self::Model,
            ObjectKind::Objective | ObjectKind::EarlierObjective => Self::Objective,
            ObjectKind::Rewrite | ObjectKind::EarlierRewrite => Self::Rewrite,
            ObjectKind::GatewayClass => Self::GatewayClass,
            ObjectKind::Gateway => Self::Gateway,
            ObjectKind::Route => Self::Route,
            ObjectKind::Grant | ObjectKind::EarlierGrant => Self::Grant,
            ObjectKind::Namespace => Self::Namespace,
            ObjectKind::Service => Self::Service,
        }
    }
}

// === ObjectState ===

impl ObjectState {
    pub(super) fn of(verdict: &ObjectVerdict) -> Self {
        match verdict {
            ObjectVerdict::Accepted(None) => Self::Accepted,
            ObjectVerdict::Accepted(Some(_)) => Self::Partial,
            ObjectVerdict::Refused { .. } => Self::Refused,
            ObjectVerdict::Foreign => Self::Foreign,
        }
    }
}
