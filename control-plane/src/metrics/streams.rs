//! Streams and messages between this replica and the proxies.

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
    /// A message to a subscriber.
    pub enum MessageKind {
        /// The whole cluster.
        Snapshot = "snapshot",
        /// Changes of the cluster.
        Delta = "delta",
        /// Load of endpoints.
        Load = "load",
    }
}

label_set! {
    /// A report of a proxy.
    pub enum ReportEvent {
        /// The request was sent to an endpoint.
        Started = "started",
        /// The first byte of the response arrived.
        FirstByte = "first_byte",
        /// An attempt failed.
        AttemptFailed = "attempt_failed",
        /// The request ended.
        Finished = "finished",
        /// An event that this release does not have.
        Unknown = "unknown",
    }
}

label_set! {
    /// How a TLS handshake ended.
    pub enum HandshakeOutcome {
        /// Both sides trust each other.
        Accepted = "accepted",
        /// The peer sent no certificate.
        NoCertificate = "no_certificate",
        /// The peer's certificate is not valid.
        BadCertificate = "bad_certificate",
        /// The peer was too slow.
        Timeout = "timeout",
        /// There were too many at once, most of them the peer's.
        Displaced = "displaced",
        /// The peer speaks no TLS, disconnected, or does not trust this replica's certificate.
        Failed = "failed",
    }
}

/// The families of streams and messages.
#[derive(Clone, Debug)]
pub struct StreamMetrics {
    /// Proxies that are subscribed to snapshots.
    pub subscribers: Gauge,
    /// Version of the newest snapshot.
    pub snapshot_version: Gauge,
    /// Messages to subscribers.
    pub messages_sent: PerValue<MessageKind, Counter>,
    /// Versions that a proxy could not use.
    pub rejected_snapshots: Counter,
    /// Reports of proxies.
    pub reports: PerValue<ReportEvent, Counter>,
    /// Open Score streams.
    pub score_streams: Gauge,
    /// TLS handshakes with proxies.
    pub handshakes: PerValue<HandshakeOutcome, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabels {
    kind: MessageKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReportLabels {
    event: ReportEvent,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    outcome: HandshakeOutcome,
}

// === StreamMetrics ===

impl StreamMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let sent: Family<MessageLabels, Counter> = family(
            registry,
            "messages_sent",
            "Messages sent to subscribers, by kind: snapshot, delta, load",
        );
        let reports: Family<ReportLabels, Counter> = family(
            registry,
            "reports",
            "Reports that proxies sent about their requests, by event",
        );
        let handshakes: Family<HandshakeLabels, Counter> = family(
            registry,
            "tls_handshakes",
            "TLS handshakes with proxies, by outcome",
        );
        Self {
            subscribers: family(
                registry,
                "subscribers",
                "Proxies that are subscribed to snapshots",
            ),
            snapshot_version: family(
                registry,
                "snapshot_version",
                "Version of the newest snapshot, counted from the start of this replica",
            ),
            messages_sent: PerValue::new(|kind| sent.get_or_create_owned(&MessageLabels { kind })),
            rejected_snapshots: family(
                registry,
                "rejected_snapshots",
                "Snapshots and deltas that a proxy could not use",
            ),
            reports: PerValue::new(|event| reports.get_or_create_owned(&ReportLabels { event })),
            score_streams: family(registry, "score_streams", "Open Score streams"),
            handshakes: PerValue::new(|outcome| {
                handshakes.get_or_create_owned(&HandshakeLabels { outcome })
            }),
        }
    }
}
