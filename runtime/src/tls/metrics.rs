//! What a process tells of its certificates.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::identity::Identity;

/// The families, declared by a process that has a folder of certificates.
#[derive(Default)]
pub(super) struct TlsMetrics {
    expiry: Gauge,
    authority_expiry: Gauge,
    in_force: Gauge,
    reloads: Family<ReloadLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    outcome: &'static str,
}

// === TlsMetrics ===

impl TlsMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self {
            expiry,
            authority_expiry,
            in_force,
            reloads,
        } = &metrics;
        let registry = registry.sub_registry_with_prefix("hermes_tls");
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "Unix time at which this process's certificate ends",
            expiry.clone(),
        );
        registry.register(
            "ca_expiry_timestamp_seconds",
            "Unix time at which the last of the certificate authority's certificates ends",
            authority_expiry.clone(),
        );
        registry.register(
            "last_reload_successful",
            "1 while the certificates in the folder are the ones in force, 0 while they are refused or unreadable",
            in_force.clone(),
        );
        registry.register(
            "reloads",
            "Times that the certificates were read, the start included, by outcome",
            reloads.clone(),
        );
        metrics
    }

    pub(super) fn accepted(&self, identity: &Identity) {
        self.expiry.set(identity.expires);
        self.authority_expiry.set(identity.authority_expires);
        self.in_force.set(1);
        self.count("accepted");
    }

    pub(super) fn refused(&self) {
        self.in_force.set(0);
        self.count("refused");
    }

    fn count(&self, outcome: &'static str) {
        self.reloads.get_or_create(&ReloadLabels { outcome }).inc();
    }
}
