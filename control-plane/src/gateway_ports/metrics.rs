//! Services of Gateways as metrics.

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

use super::{GatewayName, GatewayProblem, GatewayService};

label_set! {
    /// How a Gateway is served.
    pub enum GatewayServiceState {
        /// It has all of its ports, and an address.
        Ready = "ready",
        /// Its Service is not complete yet.
        Pending = "pending",
        /// No port of the proxies is left for it.
        NoPort = "no_port",
        /// Its Service is someone else's.
        Foreign = "foreign",
        /// Its Service cannot be written.
        NotWritten = "not_written",
        /// Services cannot be listed.
        NotListed = "not_listed",
    }
}

label_set! {
    /// How writing a Service ended.
    pub enum ServiceWriteOutcome {
        /// It is as it should be.
        Applied = "applied",
        /// It is deleted.
        Deleted = "deleted",
        /// The API server refused it, or could not be reached.
        Refused = "refused",
        /// There was no answer in time.
        Timeout = "timeout",
    }
}

/// The families of Gateways' Services. Clones share them.
#[derive(Clone, Debug)]
pub struct GatewayPortMetrics {
    services: PerValue<GatewayServiceState, Gauge>,
    writes: PerValue<ServiceWriteOutcome, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: GatewayServiceState,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: ServiceWriteOutcome,
}

// === GatewayPortMetrics ===

impl GatewayPortMetrics {
    /// Declares the families in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("hermes_control_plane");
        let services: Family<StateLabels, Gauge> = family(
            registry,
            "gateway_services",
            "Gateways by the state of their Service: ready, pending, no_port, foreign, not_written, not_listed",
        );
        let writes: Family<OutcomeLabels, Counter> = family(
            registry,
            "gateway_service_writes",
            "Services of Gateways that were written, by outcome: applied, deleted, refused, timeout",
        );
        Self {
            services: PerValue::new(|state| services.get_or_create_owned(&StateLabels { state })),
            writes: PerValue::new(|outcome| writes.get_or_create_owned(&OutcomeLabels { outcome })),
        }
    }

    /// Counts what became of all Gateways.
    pub(super) fn count(&self, services: Option<&BTreeMap<GatewayName, GatewayService>>) {
        for &state in GatewayServiceState::ALL {
            let all = services.into_iter().flat_map(BTreeMap::values);
            let same = all.filter(|service| GatewayServiceState::of(service) == state);
            self.services[state].set(i64::try_from(same.count()).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn written(&self, outcome: ServiceWriteOutcome) {
        self.writes[outcome].inc();
    }
}

// === GatewayServiceState ===

impl GatewayServiceState {
    fn of(service: &GatewayService) -> Self {
        match &service.problem {
            None => Self::Ready,
            Some(GatewayProblem::Pending) => Self::Pending,
            Some(GatewayProblem::NoPort) => Self::NoPort,
            Some(GatewayProblem::ForeignService(_)) => Self::Foreign,
            Some(GatewayProblem::NotWritten(_)) => Self::NotWritten,
            Some(GatewayProblem::NotListed(_)) => Self::NotListed,
        }
    }
}
