//! Metrics of the process's certificates.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::identity::Identity;
use crate::metrics::{PerValue, family};

crate::label_set! {
    /// What became of the certificates in the folder.
    enum ReloadOutcome {
        /// They are in use.
        Accepted = "accepted",
        /// They are invalid or unreadable.
        Rejected = "rejected",
    }
}

/// The families, declared by a process that has a folder of certificates.
pub(super) struct TlsMetrics {
    certificate_expiry: Gauge,
    ca_expiry: Gauge,
    last_reload_successful: Gauge,
    reloads: PerValue<ReloadOutcome, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    outcome: ReloadOutcome,
}

// === TlsMetrics ===

impl TlsMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("hermes_tls");
        let reloads: Family<ReloadLabels, Counter> = family(
            registry,
            "reloads",
            "Reads of the certificates, the first one included, by outcome",
        );
        Self {
            certificate_expiry: family(
                registry,
                "certificate_expiry_timestamp_seconds",
                "Unix time at which the certificate of this process expires",
            ),
            ca_expiry: family(
                registry,
                "ca_expiry_timestamp_seconds",
                "Unix time at which the last certificate of the certificate authority expires",
            ),
            last_reload_successful: family(
                registry,
                "last_reload_successful",
                "1 while the certificates in the folder are in use, 0 while they are invalid or unreadable",
            ),
            reloads: PerValue::new(|outcome| {
                reloads.get_or_create_owned(&ReloadLabels { outcome })
            }),
        }
    }

    pub(super) fn accepted(&self, identity: &Identity) {
        self.certificate_expiry.set(identity.expires);
        self.ca_expiry.set(identity.authority_expires);
        self.last_reload_successful.set(1);
        self.reloads[ReloadOutcome::Accepted].inc();
    }

    pub(super) fn rejected(&self) {
        self.last_reload_successful.set(0);
        self.reloads[ReloadOutcome::Rejected].inc();
    }
}
