//! What gateways ask: connections, and streams by how they ended.

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
    /// How the stream of a gateway ended.
    pub(crate) enum PickerStreamEnd {
        /// An endpoint's answer passed to its end.
        Served = "served",
        /// The gateway got an answer that the proxy made itself.
        Replied = "replied",
        /// The gateway ended it before: its client disconnected, or it answered by itself.
        Left = "left",
        /// The endpoint took too long.
        TimedOut = "timed_out",
        /// The gateway did not keep to the protocol, or is configured in a way that cannot be
        /// served.
        Failed = "failed",
    }
}

/// The families of the picker's door.
pub(crate) struct PickerMetrics {
    pub(crate) connections: Gauge,
    pub(crate) streams: Gauge,
    pub(crate) ends: PerValue<PickerStreamEnd, Counter>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndLabels {
    end: PickerStreamEnd,
}

impl PickerMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let ends: Family<EndLabels, Counter> = family(
            registry,
            "hermes_picker_streams",
            "Requests that gateways asked about, by how their streams ended",
        );
        Self {
            connections: family(
                registry,
                "hermes_picker_connections",
                "Open connections from gateways",
            ),
            streams: family(
                registry,
                "hermes_picker_open_streams",
                "Open streams of gateways, one for each request",
            ),
            ends: PerValue::new(|end| ends.get_or_create_owned(&EndLabels { end })),
        }
    }
}
