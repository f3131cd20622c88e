//! Secrets with certificates as metrics.

use std::collections::BTreeMap;

use hermes_runtime::{
    label_set,
    metrics::{LabelSet, PerValue, family},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{SecretName, SecretState};

label_set! {
    /// What is known of a Secret that a listener names.
    pub enum SecretStateLabel {
        /// It is a certificate with its key.
        Usable = "usable",
        /// There is none.
        Absent = "absent",
        /// It is something else.
        Invalid = "invalid",
        /// It cannot be read.
        Unknown = "unknown",
    }
}

/// The families of Secrets. Clones share them.
#[derive(Clone, Debug)]
pub struct SecretMetrics {
    secrets: PerValue<SecretStateLabel, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SecretLabels {
    state: SecretStateLabel,
}

// === SecretMetrics ===

impl SecretMetrics {
    /// Declares the families in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("hermes_control_plane");
        let secrets: Family<SecretLabels, Gauge> = family(
            registry,
            "listener_secrets",
            "Secrets that listeners have their certificates from, by state: usable, absent, invalid, unknown",
        );
        Self {
            secrets: PerValue::new(|state| secrets.get_or_create_owned(&SecretLabels { state })),
        }
    }

    pub(super) fn count(&self, states: &BTreeMap<SecretName, SecretState>) {
        for &label in SecretStateLabel::ALL {
            let same = states
                .values()
                .filter(|state| SecretStateLabel::of(state) == label);
            self.secrets[label].set(i64::try_from(same.count()).unwrap_or(i64::MAX));
        }
    }
}

// === SecretStateLabel ===

impl SecretStateLabel {
    const fn of(state: &SecretState) -> Self {
        match state {
            SecretState::Usable => Self::Usable,
            SecretState::Absent => Self::Absent,
            SecretState::Invalid(_) => Self::Invalid,
            SecretState::Unknown(_) => Self::Unknown,
        }
    }
}
