//! What the streams of all gateways share, and how they are counted.

use std::{sync::Arc, time::Duration};

use hermes_core::policy::ProxySettings;

use crate::{
    place::Placer,
    sync::RoutingState,
    telemetry::metrics::{PickerStreamEnd, ProxyMetrics},
};

/// The door for gateways.
pub(crate) struct PickerDoor {
    pub(crate) placer: Arc<Placer>,
    pub(crate) routing: RoutingState,
    pub(crate) metrics: Arc<ProxyMetrics>,
    /// How many endpoints a gateway is given at most.
    pub(crate) endpoints: usize,
}

/// A stream in the metrics. Dropped before its end is known, the gateway has left.
pub(super) struct CountedStream {
    metrics: Arc<ProxyMetrics>,
    pub(super) end: PickerStreamEnd,
}

impl PickerDoor {
    /// How long a gateway may take for its first message, as a client may for its head.
    pub(super) fn patience(&self) -> Duration {
        let view = self.routing.view.load();
        let timeout = view.as_ref().map(|view| view.settings().client_timeout);
        timeout.unwrap_or_else(|| ProxySettings::default().client_timeout)
    }

    /// Counts a stream until it is dropped.
    pub(super) fn count(&self) -> CountedStream {
        self.metrics.picker.streams.inc();
        CountedStream {
            metrics: Arc::clone(&self.metrics),
            end: PickerStreamEnd::Left,
        }
    }
}

impl Drop for CountedStream {
    fn drop(&mut self) {
        self.metrics.picker.streams.dec();
        self.metrics.picker.ends[self.end].inc();
    }
}
