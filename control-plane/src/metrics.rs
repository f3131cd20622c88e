//! What the control plane says about its own work.
//!
//! Families are declared once, here, and handles are resolved when a pool appears, not per request. Labels are names of
//! pools (at most 256 at a time, chosen by the operator) and members of small closed sets. What can be read off the
//! world at any moment (endpoints, bookings) is read when it is scraped, by `admin::census`.

use std::sync::Arc;

use hermes_core::query::CacheSource;
use hermes_runtime::metrics::{Bounds, HistogramFamily};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// From a choice without any lookup (some microseconds) to a lookup that used up its deadline.
const SCORE_SECONDS: &[f64] = &[
    0.000_002, 0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001,
    0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
];

/// From a wait that nobody notices to one that is given up.
const WAITED_SECONDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0,
];

/// The families that are counted as things happen. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Proxies that are subscribed now.
    pub subscribers: Gauge,
    /// Version of the newest snapshot.
    pub snapshot_version: Gauge,
    /// Snapshots and deltas that were sent, by which of the two.
    pub sent: Family<SentLabels, Counter>,
    /// Versions that a proxy could not use.
    pub rejected: Counter,
    /// Reports of proxies, by event.
    pub reports: Family<ReportLabels, Counter>,
    /// Score streams that are open now.
    pub score_streams: Gauge,
    /// TLS handshakes with proxies, by how they ended.
    pub handshakes: Family<HandshakeLabels, Counter>,
    /// Configurations that were accepted since the start.
    pub config_revision: Gauge,
    /// Whether the newest configuration was accepted.
    pub config_ok: Gauge,
    scores: Family<ScoreLabels, Counter>,
    score_seconds: HistogramFamily<PoolLabels>,
    released: Family<ReleaseLabels, Counter>,
    queued: Family<PoolLabels, Counter>,
    waited_seconds: HistogramFamily<PoolLabels>,
    expected_cached: Family<SourceLabels, Counter>,
    reported_cached: Family<SourceLabels, Counter>,
    calibration_error: Family<SourceLabels, Counter>,
}

/// The handles of one pool.
#[derive(Clone, Debug)]
pub struct PoolMetrics {
    scores: [Counter; Outcome::ALL.len()],
    /// Time from reading a request to its answer.
    pub score_seconds: Histogram,
    released: [Counter; Cause::ALL.len()],
    /// Requests that had to wait.
    pub queued: Counter,
    /// How long those waited who were bound in the end.
    pub waited_seconds: Histogram,
    /// By source.
    calibration: [CalibrationMetrics; CacheSource::ALL.len()],
}

/// What one source expected to be cached, and what came of it.
#[derive(Clone, Debug)]
struct CalibrationMetrics {
    expected: Counter,
    reported: Counter,
    error: Counter,
}

/// How a score request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Outcome {
    /// Endpoints were named.
    Chosen,
    /// Endpoints were named although all are down.
    Desperate,
    /// The pool has no endpoint.
    Empty,
    /// Every endpoint was tried already.
    AllTried,
    /// No endpoint has the model loaded.
    ModelNotLoaded,
    /// The proxy took it back before it was answered.
    Cancelled,
    /// Too many requests wait already.
    QueueFull,
    /// It waited as long as it may.
    QueueTimeout,
}

/// Why a booking ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Cause {
    /// The proxy said how its request ended.
    Report,
    /// The proxy took it back.
    Cancel,
    /// Nothing was heard of it for too long.
    Ttl,
    /// Its proxy is gone.
    ProxyGone,
    /// Its endpoint is gone.
    EndpointGone,
}

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// The proxy is known.
    Accepted,
    /// It showed no certificate.
    NoCertificate,
    /// It showed one that is not valid.
    BadCertificate,
    /// It took too long.
    Late,
    /// It spoke no TLS, or did not believe this replica's certificate.
    Broken,
}

/// Labels of what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SentLabels {
    /// `snapshot`, `delta` or `load`.
    pub kind: &'static str,
}

/// Labels of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReportLabels {
    /// The event's name in the contract, or `unknown`.
    pub event: &'static str,
}

/// Labels of TLS handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HandshakeLabels {
    /// The name of a [`Handshake`].
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScoreLabels {
    pool: Arc<str>,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReleaseLabels {
    pool: Arc<str>,
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    pool: Arc<str>,
    source: &'static str,
}

/// The pool label of requests that name no pool of ours: their own word has no bound.
const NO_POOL: &str = "";

// === Metrics ===

impl Metrics {
    /// Declares the families in `registry`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            subscribers: Gauge::default(),
            snapshot_version: Gauge::default(),
            sent: Family::default(),
            rejected: Counter::default(),
            reports: Family::default(),
            score_streams: Gauge::default(),
            handshakes: Family::default(),
            config_revision: Gauge::default(),
            config_ok: Gauge::default(),
            scores: Family::default(),
            score_seconds: Bounds(SCORE_SECONDS).family(),
            released: Family::default(),
            queued: Family::default(),
            waited_seconds: Bounds(WAITED_SECONDS).family(),
            expected_cached: Family::default(),
            reported_cached: Family::default(),
            calibration_error: Family::default(),
        };
        // From zero, and not from the first event, which Prometheus' `rate` would not see.
        for outcome in Handshake::ALL.map(Handshake::name) {
            drop(
                metrics
                    .handshakes
                    .get_or_create(&HandshakeLabels { outcome }),
            );
        }
        metrics.declare(registry.sub_registry_with_prefix("hermes_control_plane"));
        metrics
    }

    fn declare(&self, registry: &mut Registry) {
        let Self {
            subscribers,
            snapshot_version,
            sent,
            rejected,
            reports,
            score_streams,
            ..
        } = self.clone();
        registry.register(
            "subscribers",
            "Proxies that are subscribed to snapshots now",
            subscribers,
        );
        registry.register(
            "snapshot_version",
            "Version of the newest snapshot, counted from the start of this replica",
            snapshot_version,
        );
        registry.register(
            "messages_sent",
            "Messages sent to subscribers, by kind: snapshot, delta, load",
            sent,
        );
        registry.register(
            "rejected_snapshots",
            "Versions that a proxy could not use",
            rejected,
        );
        registry.register(
            "reports",
            "Reports of proxies about their requests, by event",
            reports,
        );
        registry.register(
            "score_streams",
            "Score streams that are open now",
            score_streams,
        );
        registry.register(
            "tls_handshakes",
            "TLS handshakes with proxies, by how they ended",
            self.handshakes.clone(),
        );
        let Self {
            config_revision,
            config_ok,
            scores,
            score_seconds,
            released,
            ..
        } = self.clone();
        registry.register(
            "config_revision",
            "Configurations that were accepted since the start of this replica",
            config_revision,
        );
        registry.register(
            "config_last_reload_successful",
            "1 while the configuration file is the one in force, 0 while it is refused or unreadable",
            config_ok,
        );
        registry.register(
            "scores",
            "Score requests, by pool and by how they were answered",
            scores,
        );
        registry.register(
            "score_duration_seconds",
            "Time from reading a score request to its answer, lookups included",
            score_seconds,
        );
        registry.register(
            "bookings_released",
            "Bookings that ended, by pool and cause: report, cancel, ttl, proxy_gone, endpoint_gone",
            released,
        );
        let Self {
            queued,
            waited_seconds,
            expected_cached,
            reported_cached,
            calibration_error,
            ..
        } = self.clone();
        registry.register(
            "queued_requests",
            "Requests that had to wait for an endpoint with room, by pool",
            queued,
        );
        registry.register(
            "queue_wait_seconds",
            "How long requests waited that were bound in the end, without those that were bound at once",
            waited_seconds,
        );
        registry.register(
            "expected_cached_tokens",
            "Prompt tokens that were expected to be cached where requests were sent, by pool and by who said so: \
             learned, manager, events",
            expected_cached,
        );
        registry.register(
            "reported_cached_tokens",
            "Prompt tokens that engines reported as cached for the same requests, by pool and by who had been believed",
            reported_cached,
        );
        registry.register(
            "cached_tokens_error",
            "Sum of the differences between the two, request by request and whichever is larger",
            calibration_error,
        );
    }

    /// The handles of `pool`.
    #[must_use]
    pub fn pool(&self, pool: &Arc<str>) -> PoolMetrics {
        let score = |outcome: Outcome| self.score_of(pool, outcome.name());
        let release = |cause: Cause| {
            let labels = ReleaseLabels {
                pool: Arc::clone(pool),
                cause: cause.name(),
            };
            self.released.get_or_create(&labels).clone()
        };
        PoolMetrics {
            scores: Outcome::ALL.map(score),
            score_seconds: self
                .score_seconds
                .get_or_create(&PoolLabels {
                    pool: Arc::clone(pool),
                })
                .clone(),
            released: Cause::ALL.map(release),
            queued: self
                .queued
                .get_or_create(&PoolLabels {
                    pool: Arc::clone(pool),
                })
                .clone(),
            waited_seconds: self
                .waited_seconds
                .get_or_create(&PoolLabels {
                    pool: Arc::clone(pool),
                })
                .clone(),
            calibration: CacheSource::ALL.map(|source| {
                let labels = SourceLabels {
                    pool: Arc::clone(pool),
                    source: source.name(),
                };
                CalibrationMetrics {
                    expected: self.expected_cached.get_or_create(&labels).clone(),
                    reported: self.reported_cached.get_or_create(&labels).clone(),
                    error: self.calibration_error.get_or_create(&labels).clone(),
                }
            }),
        }
    }

    /// Ends the series of a pool that is gone.
    pub fn forget(&self, pool: &Arc<str>) {
        for outcome in Outcome::ALL {
            self.scores.remove(&ScoreLabels {
                pool: Arc::clone(pool),
                outcome: outcome.name(),
            });
        }
        for cause in Cause::ALL {
            self.released.remove(&ReleaseLabels {
                pool: Arc::clone(pool),
                cause: cause.name(),
            });
        }
        let labels = PoolLabels {
            pool: Arc::clone(pool),
        };
        self.score_seconds.remove(&labels);
        self.queued.remove(&labels);
        self.waited_seconds.remove(&labels);
        for source in CacheSource::ALL {
            let labels = SourceLabels {
                pool: Arc::clone(pool),
                source: source.name(),
            };
            self.expected_cached.remove(&labels);
            self.reported_cached.remove(&labels);
            self.calibration_error.remove(&labels);
        }
    }

    /// A score request that names a pool that this replica does not know.
    pub fn unknown_pool(&self) {
        self.score_of(&NO_POOL.into(), "unknown_pool").inc();
    }

    /// A score request that could not be read.
    pub fn invalid(&self) {
        self.score_of(&NO_POOL.into(), "invalid").inc();
    }

    fn score_of(&self, pool: &Arc<str>, outcome: &'static str) -> Counter {
        self.scores
            .get_or_create(&ScoreLabels {
                pool: Arc::clone(pool),
                outcome,
            })
            .clone()
    }
}

// === PoolMetrics ===

impl PoolMetrics {
    /// Counts an answered request.
    pub fn scored(&self, outcome: Outcome) {
        self.scores[outcome as usize].inc();
    }

    /// Counts what came of what one source said.
    pub fn calibrated(&self, source: CacheSource, expected: u32, reported: u32) {
        let metrics = &self.calibration[source as usize];
        metrics.expected.inc_by(expected.into());
        metrics.reported.inc_by(reported.into());
        metrics.error.inc_by(expected.abs_diff(reported).into());
    }

    /// Counts bookings that ended.
    pub fn released(&self, cause: Cause, bookings: usize) {
        self.released[cause as usize].inc_by(bookings as u64);
    }
}

// === Outcome ===

impl Outcome {
    const ALL: [Self; 8] = [
        Self::Chosen,
        Self::Desperate,
        Self::Empty,
        Self::AllTried,
        Self::ModelNotLoaded,
        Self::Cancelled,
        Self::QueueFull,
        Self::QueueTimeout,
    ];

    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chosen => "chosen",
            Self::Desperate => "desperate",
            Self::Empty => "empty",
            Self::AllTried => "all_tried",
            Self::ModelNotLoaded => "model_not_loaded",
            Self::Cancelled => "cancelled",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
        }
    }
}

// === Cause ===

impl Handshake {
    const ALL: [Self; 5] = [
        Self::Accepted,
        Self::NoCertificate,
        Self::BadCertificate,
        Self::Late,
        Self::Broken,
    ];

    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::NoCertificate => "no_certificate",
            Self::BadCertificate => "bad_certificate",
            Self::Late => "late",
            Self::Broken => "broken",
        }
    }
}

impl Cause {
    const ALL: [Self; 5] = [
        Self::Report,
        Self::Cancel,
        Self::Ttl,
        Self::ProxyGone,
        Self::EndpointGone,
    ];

    /// The label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Cancel => "cancel",
            Self::Ttl => "ttl",
            Self::ProxyGone => "proxy_gone",
            Self::EndpointGone => "endpoint_gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use hermes_runtime::metrics::Exposition;

    use super::*;

    #[test]
    fn handles_count_under_the_labels_of_their_names() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let chat: Arc<str> = "chat".into();
        let pool = metrics.pool(&chat);
        for outcome in Outcome::ALL {
            pool.scored(outcome);
        }
        pool.released(Cause::EndpointGone, 3);
        let text = Exposition::Prometheus
            .encode(&registry)
            .expect("a string takes all text");
        for outcome in Outcome::ALL {
            let line = format!(
                "hermes_control_plane_scores_total{{pool=\"chat\",outcome=\"{}\"}} 1\n",
                outcome.name()
            );
            assert!(text.contains(&line), "{line} in {text}");
        }
        let line = "hermes_control_plane_bookings_released_total{pool=\"chat\",cause=\"endpoint_gone\"} 3\n";
        assert!(text.contains(line), "{text}");
        metrics.forget(&chat);
        let text = Exposition::Prometheus
            .encode(&registry)
            .expect("a string takes all text");
        assert!(!text.contains("chat"), "{text}");
    }
}
