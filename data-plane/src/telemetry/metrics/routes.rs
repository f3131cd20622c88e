//! Requests by route, and the ports of listeners.

use std::sync::Arc;

use hermes_runtime::{
    label_set,
    metrics::{PerValue, SeriesScope, family},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

label_set! {
    /// What became of a request that follows a route.
    pub(crate) enum RouteResult {
        /// A pool was chosen.
        Forwarded = "forwarded",
        /// The client was sent elsewhere.
        Redirected = "redirected",
        /// The backend leads nowhere.
        InvalidBackend = "invalid_backend",
    }
}

label_set! {
    /// How the TLS handshake of a client ended.
    pub(crate) enum ClientHandshake {
        /// The connection is secured.
        Accepted = "accepted",
        /// One side refused it.
        Failed = "failed",
        /// It took too long.
        Timeout = "timeout",
    }
}

/// The families of routes.
pub(crate) struct RouteFamilies {
    requests: Family<RouteLabels, Counter>,
    mirrored: Family<MirrorLabels, Counter>,
}

/// One route's handles.
pub(crate) struct RouteMetrics {
    pub(crate) requests: PerValue<RouteResult, Counter>,
    pub(crate) mirrored: PerValue<MirrorResult, Counter>,
}

label_set! {
    /// What became of a copy of a request.
    pub(crate) enum MirrorResult {
        /// It is sent.
        Sent = "sent",
        /// Too many copies are open, or the proxy has too much to do.
        Dropped = "dropped",
    }
}

/// Ports beside the usual one.
pub(crate) struct PortMetrics {
    pub(crate) open: Gauge,
    pub(crate) failed: Gauge,
    pub(crate) bind_failures: Counter,
    pub(crate) handshakes: PerValue<ClientHandshake, Counter>,
    usable_certificates: Gauge,
    missing_certificates: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: Arc<str>,
    result: RouteResult,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MirrorLabels {
    route: Arc<str>,
    result: MirrorResult,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClientHandshakeLabels {
    outcome: ClientHandshake,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PortLabels {
    state: &'static str,
}

// === RouteFamilies ===

impl RouteFamilies {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            requests: family(
                registry,
                "hermes_route_requests",
                "Requests that follow a route, by what became of them",
            ),
            mirrored: family(
                registry,
                "hermes_route_mirrored_requests",
                "Copies of requests that a route mirrors, sent or dropped",
            ),
        }
    }

    pub(super) fn of_route(&self, route: &Arc<str>, series: &mut SeriesScope) -> RouteMetrics {
        RouteMetrics {
            requests: PerValue::new(|result| {
                let route = Arc::clone(route);
                series.handle(&self.requests, RouteLabels { route, result })
            }),
            mirrored: PerValue::new(|result| {
                let route = Arc::clone(route);
                series.handle(&self.mirrored, MirrorLabels { route, result })
            }),
        }
    }
}

// === PortMetrics ===

impl PortMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let ports: Family<PortLabels, Gauge> = family(
            registry,
            "hermes_listener_ports",
            "Ports of listeners beside the usual one, by state: open, or failed to bind",
        );
        let handshakes: Family<ClientHandshakeLabels, Counter> = family(
            registry,
            "hermes_listener_handshakes",
            "TLS handshakes of clients by outcome",
        );
        let certificates: Family<PortLabels, Gauge> = family(
            registry,
            "hermes_listener_certificates",
            "Certificates that listeners name, by state: usable, or missing",
        );
        let of_state = |state| ports.get_or_create_owned(&PortLabels { state });
        let certificates = |state| certificates.get_or_create_owned(&PortLabels { state });
        Self {
            open: of_state("open"),
            failed: of_state("failed"),
            usable_certificates: certificates("usable"),
            missing_certificates: certificates("missing"),
            bind_failures: family(
                registry,
                "hermes_listener_bind_failures",
                "Failed attempts to take a listener's port",
            ),
            handshakes: PerValue::new(|outcome| {
                handshakes.get_or_create_owned(&ClientHandshakeLabels { outcome })
            }),
        }
    }

    /// Of `named` certificates, `usable` can be shown.
    pub(crate) fn count_certificates(&self, usable: usize, named: usize) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.usable_certificates.set(count(usable));
        self.missing_certificates
            .set(count(named.saturating_sub(usable)));
    }
}
