//! Endpoints as this proxy sees them: attempts, retries, health, connections.

use std::sync::Arc;

use hermes_core::load::Health;
use hermes_runtime::{
    label_set,
    metrics::{LabelSet, PerValue, PoolLabels, SeriesScope, family},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

label_set! {
    /// How one attempt ended.
    pub(crate) enum AttemptOutcome {
        /// With a response that is passed on.
        Answered = "answered",
        /// With 429 or 503.
        Overloaded = "overloaded",
        /// Without a connection.
        Unreachable = "unreachable",
        /// The connection broke, or the response was 500, 502, 504, an error in a 200, or nothing.
        Failed = "failed",
        /// A deadline passed.
        TimedOut = "timed_out",
    }
}

label_set! {
    /// What an endpoint's answer is, by its head and first bytes.
    pub(crate) enum AnswerClass {
        /// What was asked for.
        Tokens = "tokens",
        /// 2xx without anything in it.
        Empty = "empty",
        /// 4xx but 429, or an error in a 200 that blames the request.
        ClientError = "client_error",
        /// 5xx but 503.
        EngineError = "engine_error",
        /// 429 or 503, or an error in a 200 that says the same.
        Overloaded = "overloaded",
        /// An error in a 200.
        ErrorEvent = "error_event",
        /// A redirect, or a 200 with something that no engine answers.
        NotAnAnswer = "not_an_answer",
    }
}

label_set! {
    /// Why an endpoint was ejected.
    pub(crate) enum EjectionReason {
        /// Failures in a row.
        Failures = "failures",
        /// It refused far more than its peers.
        Refusals = "refusals",
    }
}

label_set! {
    /// The step at which opening a connection failed.
    pub(crate) enum ConnectFailure {
        /// The name has no address, or its lookup failed or took longer than connecting may.
        Resolve = "resolve",
        /// No address accepted.
        Connect = "connect",
        /// The time limit passed, at whichever step.
        Timeout = "timeout",
        /// The endpoint's certificate was refused.
        Certificate = "certificate",
        /// The handshake failed for another reason.
        Tls = "tls",
    }
}

label_set! {
    /// [`Health`] as a label.
    enum HealthLabel {
        /// Selected freely.
        Up = "up",
        /// Slow start.
        Warming = "warming",
        /// Ejected.
        Down = "down",
    }
}

/// The families of endpoints.
pub(crate) struct EndpointFamilies {
    attempts: Family<AttemptLabels, Counter>,
    retries: Family<PoolLabels, Counter>,
    answers: Family<AnswerClassLabels, Counter>,
    ejections: Family<EjectionLabels, Counter>,
    endpoints: Family<EndpointLabels, Gauge>,
    pub(crate) connections_idle: Gauge,
    pub(crate) connections: ConnectionMetrics,
}

/// Connections to endpoints, of all pools.
pub(crate) struct ConnectionMetrics {
    pub(crate) opened: Counter,
    pub(crate) failed: PerValue<ConnectFailure, Counter>,
}

/// One pool's handles.
pub(crate) struct EndpointMetrics {
    pub(crate) attempts: PerValue<AttemptOutcome, Counter>,
    pub(crate) retries: Counter,
    pub(crate) answers: PerValue<AnswerClass, Counter>,
    pub(crate) ejections: PerValue<EjectionReason, Counter>,
    by_health: PerValue<HealthLabel, Gauge>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AttemptLabels {
    pool: Arc<str>,
    outcome: AttemptOutcome,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AnswerClassLabels {
    pool: Arc<str>,
    class: AnswerClass,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EjectionLabels {
    pool: Arc<str>,
    reason: EjectionReason,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ConnectFailureLabels {
    reason: ConnectFailure,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndpointLabels {
    pool: Arc<str>,
    health: HealthLabel,
}

// === EndpointFamilies ===

impl EndpointFamilies {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            attempts: family(
                registry,
                "hermes_attempts",
                "Requests sent to endpoints, by outcome",
            ),
            retries: family(registry, "hermes_retries", "Attempts after the first"),
            answers: family(
                registry,
                "hermes_answers",
                "Answers of endpoints, by what their first bytes are",
            ),
            ejections: family(
                registry,
                "hermes_endpoint_ejections",
                "Ejections of endpoints by this proxy, by reason",
            ),
            endpoints: family(
                registry,
                "hermes_endpoints",
                "Endpoints by health as this proxy sees it: up, warming (slow start) or down",
            ),
            connections_idle: family(
                registry,
                "hermes_endpoint_connections_idle",
                "Idle connections to endpoints",
            ),
            connections: ConnectionMetrics::register(registry),
        }
    }

    pub(super) fn of_pool(&self, pool: &Arc<str>, series: &mut SeriesScope) -> EndpointMetrics {
        let name = || Arc::clone(pool);
        EndpointMetrics {
            attempts: PerValue::new(|outcome| {
                let labels = AttemptLabels {
                    pool: name(),
                    outcome,
                };
                series.handle(&self.attempts, labels)
            }),
            retries: series.handle(&self.retries, PoolLabels::new(pool)),
            answers: PerValue::new(|class| {
                let labels = AnswerClassLabels {
                    pool: name(),
                    class,
                };
                series.handle(&self.answers, labels)
            }),
            ejections: PerValue::new(|reason| {
                let labels = EjectionLabels {
                    pool: name(),
                    reason,
                };
                series.handle(&self.ejections, labels)
            }),
            by_health: PerValue::new(|health| {
                let labels = EndpointLabels {
                    pool: name(),
                    health,
                };
                series.handle(&self.endpoints, labels)
            }),
        }
    }
}

// === ConnectionMetrics ===

impl ConnectionMetrics {
    fn register(registry: &mut Registry) -> Self {
        let opened = family(
            registry,
            "hermes_endpoint_connections_opened",
            "Connections opened to endpoints",
        );
        let failed: Family<ConnectFailureLabels, Counter> = family(
            registry,
            "hermes_endpoint_connection_failures",
            "Connections to endpoints that could not be opened, by reason",
        );
        Self {
            opened,
            failed: PerValue::new(|reason| {
                let labels = ConnectFailureLabels { reason };
                failed.get_or_create_owned(&labels)
            }),
        }
    }
}

// === EndpointMetrics ===

impl EndpointMetrics {
    /// Publishes how many endpoints have each health.
    pub(crate) fn set_health(&self, endpoints: impl Iterator<Item = Health>) {
        let mut counts = PerValue::new(|_| 0_i64);
        for health in endpoints {
            counts[HealthLabel::from(health)] += 1;
        }
        for &health in HealthLabel::ALL {
            self.by_health[health].set(counts[health]);
        }
    }
}

// === HealthLabel ===

impl From<Health> for HealthLabel {
    fn from(health: Health) -> Self {
        match health {
            Health::Up => Self::Up,
            Health::Warming(_) => Self::Warming,
            Health::Down => Self::Down,
        }
    }
}
