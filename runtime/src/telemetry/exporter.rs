//! The OTLP exporter, and a wrapper that tidies attributes and logs when the collector rejects
//! spans.
//!
//! Spans wait in a bounded queue of the SDK and are exported in batches by a thread of its own.
//! When the queue is full, new spans are dropped: traces never slow a request down.

use super::TelemetryError;
use super::settings::{Protocol, TelemetrySettings};
use http::uri::Scheme;
use opentelemetry::KeyValue;
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Samples, batches and exports as `settings` say.
pub(super) fn provider(settings: &TelemetrySettings) -> Result<SdkTracerProvider, TelemetryError> {
    let inner = match settings.protocol {
        Protocol::Grpc => grpc(settings)?,
        Protocol::HttpProtobuf => http(settings)?,
    };
    let exporter = Reported {
        inner,
        failing: AtomicBool::new(false),
    };
    let provider = SdkTracerProvider::builder()
        .with_sampler(settings.sampler.clone())
        .with_resource(settings.resource.clone())
        .with_batch_exporter(exporter);
    Ok(provider.build())
}

fn grpc(settings: &TelemetrySettings) -> Result<opentelemetry_otlp::SpanExporter, TelemetryError> {
    // The connection is made lazily but bound to the runtime at once; outside of one that is a
    // panic.
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(TelemetryError::NoRuntime);
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(settings.endpoint.to_string())
        .with_timeout(settings.timeout)
        .with_metadata(MetadataMap::from_headers(settings.headers.clone()))
        .build()?;
    Ok(exporter)
}

fn http(settings: &TelemetrySettings) -> Result<opentelemetry_otlp::SpanExporter, TelemetryError> {
    let headers = settings.headers.iter().filter_map(|(name, value)| {
        let value = value.to_str().ok()?;
        Some((name.to_string(), value.to_owned()))
    });
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(http_client(settings)?)
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_endpoint(settings.endpoint.to_string())
        .with_timeout(settings.timeout)
        .with_headers(headers.collect::<HashMap<_, _>>())
        .build()?;
    Ok(exporter)
}

/// Without roots of trust for a plain http endpoint, so that an image without certificates can
/// export to a collector next to it.
fn http_client(settings: &TelemetrySettings) -> Result<reqwest::blocking::Client, TelemetryError> {
    let builder = reqwest::blocking::Client::builder()
        .timeout(settings.timeout)
        .http1_only();
    let builder = if settings.endpoint.scheme() == Some(&Scheme::HTTP) {
        builder.tls_certs_only([])
    } else {
        builder
    };
    // The blocking client has a runtime of its own, which must not be made inside another one.
    let built = std::thread::spawn(move || builder.build()).join();
    built
        .map_err(|_panic| TelemetryError::NoClient(None))?
        .map_err(|error| TelemetryError::NoClient(Some(error)))
}

/// Gives every attribute one value, and logs when exports begin to fail and when they work again,
/// and nothing in between: a collector that is away for an hour costs two lines.
#[derive(Debug)]
struct Reported<E> {
    inner: E,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Reported<E> {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        for span in &mut batch {
            span.attributes = last_values(std::mem::take(&mut span.attributes));
        }
        let result = self.inner.export(batch).await;
        let failed_before = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !failed_before => {
                tracing::warn!(%error, spans, "trace export fails; spans are lost until the collector takes them");
            }
            Ok(()) if failed_before => tracing::info!("trace export works again"),
            Ok(()) | Err(_) => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// One value for each name, the one that was set last, as the specification wants it: the SDK keeps
/// them all, and collectors then show any of them. A span has few attributes, so looking through
/// them beats hashing.
fn last_values(attributes: Vec<KeyValue>) -> Vec<KeyValue> {
    let mut kept: Vec<KeyValue> = Vec::with_capacity(attributes.len());
    for attribute in attributes {
        match kept.iter_mut().find(|other| other.key == attribute.key) {
            Some(earlier) => *earlier = attribute,
            None => kept.push(attribute),
        }
    }
    kept
}

#[cfg(test)]
mod tests;
