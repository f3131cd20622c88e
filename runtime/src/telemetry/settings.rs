//! The `OTEL_*` variables, read once and strictly.
//!
//! A variable of the traces signal (`OTEL_EXPORTER_OTLP_TRACES_…`) wins over the general one
//! (`OTEL_EXPORTER_OTLP_…`). <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>

use super::{Environment, Service, TelemetryError, sampler};
use crate::percent;
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::Sampler;
use std::time::Duration;

const ENDPOINT: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
const PROTOCOL: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
const HEADERS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_HEADERS",
];
const TIMEOUT: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
];
const COMPRESSION: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
];
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const DISABLED: &str = "OTEL_SDK_DISABLED";
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The port on which collectors speak gRPC by convention.
const GRPC_PORT: u16 = 4317;

/// How spans are sampled and where they go.
#[derive(Debug)]
pub(super) struct TelemetrySettings {
    /// The whole URL for HTTP; scheme, host and port for gRPC.
    pub(super) endpoint: Uri,
    pub(super) protocol: Protocol,
    /// May hold credentials. Header values are marked as sensitive, so that debug output hides
    /// them.
    pub(super) headers: HeaderMap,
    /// For one batch.
    pub(super) timeout: Duration,
    pub(super) sampler: Sampler,
    pub(super) resource: Resource,
    /// The protocol is a guess, and the port says that the guess is wrong.
    doubtful_protocol: bool,
}

/// How OTLP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Grpc,
    HttpProtobuf,
}

// === TelemetrySettings ===

impl TelemetrySettings {
    /// `None` when the environment asks for no traces: it names no endpoint, or switches the export
    /// off.
    pub(super) fn read(
        environment: &impl Environment,
        service: Service,
    ) -> Result<Option<Self>, TelemetryError> {
        let switched_off = is_disabled(environment)? | is_exporter_none(environment)?;
        let Some((variable, endpoint)) = first(environment, ENDPOINT).filter(|_| !switched_off)
        else {
            return Ok(None);
        };
        refuse_compression(environment)?;
        let named_protocol = named_protocol(environment)?;
        let protocol = named_protocol.unwrap_or(Protocol::HttpProtobuf);
        let endpoint = parse_endpoint(variable, &endpoint, protocol)?;
        Ok(Some(Self {
            doubtful_protocol: named_protocol.is_none() && endpoint.port_u16() == Some(GRPC_PORT),
            endpoint,
            protocol,
            headers: headers(environment)?,
            timeout: timeout(environment)?,
            sampler: sampler::read(environment)?,
            resource: resource(environment, service)?,
        }))
    }

    /// Says once where spans go. Header values stay untold.
    pub(super) fn log(&self) {
        let Self {
            endpoint,
            protocol,
            headers,
            timeout,
            sampler,
            ..
        } = self;
        let headers: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        tracing::info!(%endpoint, ?protocol, ?headers, ?timeout, ?sampler, "exporting traces over OTLP");
        if self.doubtful_protocol {
            tracing::warn!(
                "port {GRPC_PORT} usually speaks gRPC and OTLP defaults to http/protobuf: \
                 set OTEL_EXPORTER_OTLP_PROTOCOL to say which one is meant"
            );
        }
    }
}

/// The first variable that is set, and its value.
fn first(
    environment: &impl Environment,
    names: [&'static str; 2],
) -> Option<(&'static str, String)> {
    names
        .into_iter()
        .find_map(|name| Some((name, environment.value(name)?)))
}

fn is_disabled(environment: &impl Environment) -> Result<bool, TelemetryError> {
    let Some(value) = environment.value(DISABLED) else {
        return Ok(false);
    };
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(TelemetryError::Invalid {
            variable: DISABLED,
            value,
            expected: "`true` or `false`",
        }),
    }
}

fn is_exporter_none(environment: &impl Environment) -> Result<bool, TelemetryError> {
    let Some(value) = environment.value(EXPORTER) else {
        return Ok(false);
    };
    match value.as_str() {
        "none" => Ok(true),
        "otlp" => Ok(false),
        _ => Err(TelemetryError::Invalid {
            variable: EXPORTER,
            value,
            expected: "`otlp` or `none`",
        }),
    }
}

fn named_protocol(environment: &impl Environment) -> Result<Option<Protocol>, TelemetryError> {
    let Some((variable, value)) = first(environment, PROTOCOL) else {
        return Ok(None);
    };
    match value.as_str() {
        "grpc" => Ok(Some(Protocol::Grpc)),
        "http/protobuf" => Ok(Some(Protocol::HttpProtobuf)),
        _ => Err(TelemetryError::Invalid {
            variable,
            value,
            expected: "`grpc` or `http/protobuf`",
        }),
    }
}

fn refuse_compression(environment: &impl Environment) -> Result<(), TelemetryError> {
    match first(environment, COMPRESSION) {
        Some((variable, value)) if !value.eq_ignore_ascii_case("none") => {
            Err(TelemetryError::Invalid {
                variable,
                value,
                expected: "`none`: compression is not built in",
            })
        }
        _ => Ok(()),
    }
}

/// The general endpoint of HTTP is a base to which the path of the signal is added; that of the
/// signal is used as it is.
fn parse_endpoint(
    variable: &'static str,
    value: &str,
    protocol: Protocol,
) -> Result<Uri, TelemetryError> {
    let invalid = |expected| TelemetryError::InvalidSecret { variable, expected };
    let whole = match protocol {
        Protocol::HttpProtobuf if variable == ENDPOINT[1] => {
            format!("{}/v1/traces", value.trim_end_matches('/'))
        }
        Protocol::HttpProtobuf | Protocol::Grpc => value.to_owned(),
    };
    let expected_url = "a URL such as http://collector:4318";
    let uri: Uri = whole.parse().map_err(|_malformed| invalid(expected_url))?;
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
        return Err(invalid(expected_url));
    };
    if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
        return Err(invalid("http:// or https://"));
    }
    if protocol == Protocol::Grpc && *scheme == Scheme::HTTPS {
        return Err(invalid(
            "http:// for gRPC, whose TLS is not built in; https:// works with http/protobuf",
        ));
    }
    if authority.as_str().contains('@') {
        return Err(invalid(
            "a URL without credentials; OTEL_EXPORTER_OTLP_HEADERS takes them",
        ));
    }
    Ok(uri)
}

fn headers(environment: &impl Environment) -> Result<HeaderMap, TelemetryError> {
    let Some((variable, value)) = first(environment, HEADERS) else {
        return Ok(HeaderMap::new());
    };
    let invalid = || TelemetryError::InvalidSecret {
        variable,
        expected: "`name=value,name=value`, percent-encoded",
    };
    let mut headers = HeaderMap::new();
    for pair in pairs(&value) {
        let (name, value) = pair.ok_or_else(invalid)?;
        let name: HeaderName = name.parse().map_err(|_| invalid())?;
        let mut value = HeaderValue::try_from(value).map_err(|_| invalid())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

fn timeout(environment: &impl Environment) -> Result<Duration, TelemetryError> {
    let Some((variable, value)) = first(environment, TIMEOUT) else {
        return Ok(DEFAULT_TIMEOUT);
    };
    match value.parse() {
        Ok(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(milliseconds)),
        Ok(_) | Err(_) => Err(TelemetryError::Invalid {
            variable,
            value,
            expected: "milliseconds, at least 1",
        }),
    }
}

/// Who sends the spans. `OTEL_SERVICE_NAME` wins over `OTEL_RESOURCE_ATTRIBUTES`, which wins over
/// the built-in name.
fn resource(environment: &impl Environment, service: Service) -> Result<Resource, TelemetryError> {
    let mut attributes = vec![
        KeyValue::new("service.name", service.name),
        KeyValue::new("service.version", service.version),
    ];
    if let Some(value) = environment.value(RESOURCE_ATTRIBUTES) {
        for pair in pairs(&value) {
            let Some((name, value)) = pair else {
                let expected = "`name=value,name=value`, percent-encoded";
                return Err(TelemetryError::Invalid {
                    variable: RESOURCE_ATTRIBUTES,
                    value: value.clone(),
                    expected,
                });
            };
            attributes.push(KeyValue::new(name, value));
        }
    }
    attributes.extend(
        environment
            .value(SERVICE_NAME)
            .map(|name| KeyValue::new("service.name", name)),
    );
    let builder = Resource::builder_empty().with_detector(Box::new(TelemetryResourceDetector));
    Ok(builder.with_attributes(attributes).build())
}

/// `name=value` pairs between commas; `None` for one that has no name or no `=`, or whose value is
/// badly encoded.
fn pairs(list: &str) -> impl Iterator<Item = Option<(String, String)>> {
    list.split(',')
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let name = percent::decode(name.trim()).filter(|name| !name.is_empty())?;
            Some((name, percent::decode(value.trim())?))
        })
}

#[cfg(test)]
mod tests;
