//! Spans as a test reads them: ids in hexadecimal, attributes with their types.

use std::{fmt::Write, time::Duration};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{self, span::SpanKind, status::StatusCode},
};

/// A span that was exported.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// 32 digits.
    pub trace_id: String,
    /// 16 digits.
    pub span_id: String,
    /// 16 digits; empty for a root.
    pub parent_id: String,
    /// Such as `POST /v1/chat/completions`.
    pub name: String,
    /// Its place between two services.
    pub kind: Kind,
    /// Whether it failed.
    pub status: Status,
    /// Since the Unix epoch.
    pub start: Duration,
    /// Since the Unix epoch.
    pub end: Duration,
    /// In the order in which they came. A name that comes twice, which the specification forbids,
    /// is there twice.
    pub attributes: Vec<(String, Value)>,
    /// The spans that it follows from, 16 digits each.
    pub links: Vec<String>,
    /// `service.name` of the resource.
    pub service: String,
}

/// The kind of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Not said.
    Unspecified,
    /// Inside a service.
    Internal,
    /// Answers another service.
    Server,
    /// Asks another service.
    Client,
    /// Sends a message.
    Producer,
    /// Takes a message.
    Consumer,
}

/// The status of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not said: it did not fail.
    Unset,
    /// It was explicitly marked as successful.
    Ok,
    /// It failed.
    Error,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `string_value`.
    Text(String),
    /// `bool_value`.
    Bool(bool),
    /// `int_value`.
    Int(i64),
    /// `double_value`.
    Double(f64),
    /// Arrays, maps and bytes, which Hermes does not send.
    Other,
}

/// All spans of an export.
pub(super) fn read(message: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource in message.resource_spans {
        let attributes = resource
            .resource
            .map(|resource| resource.attributes)
            .unwrap_or_default();
        let service = attributes
            .into_iter()
            .map(attribute)
            .find(|(name, _)| name == "service.name");
        let service = match service {
            Some((_, Value::Text(service))) => service,
            _ => String::new(),
        };
        let of_resource = resource
            .scope_spans
            .into_iter()
            .flat_map(|scope| scope.spans);
        spans.extend(of_resource.map(|span| Span::new(span, &service)));
    }
    spans
}

// === Span ===

impl Span {
    fn new(span: v1::Span, service: &str) -> Self {
        let v1::Span {
            trace_id,
            span_id,
            parent_span_id,
            name,
            attributes,
            status,
            links,
            ..
        } = span;
        Self {
            trace_id: hex(&trace_id),
            span_id: hex(&span_id),
            parent_id: hex(&parent_span_id),
            name,
            kind: Kind::new(SpanKind::try_from(span.kind).unwrap_or_default()),
            status: Status::new(status.map(|status| status.code()).unwrap_or_default()),
            start: Duration::from_nanos(span.start_time_unix_nano),
            end: Duration::from_nanos(span.end_time_unix_nano),
            attributes: attributes.into_iter().map(attribute).collect(),
            links: links.iter().map(|link| hex(&link.span_id)).collect(),
            service: service.to_owned(),
        }
    }

    /// An attribute; the first when there are several of that name.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&Value> {
        self.attributes
            .iter()
            .find_map(|(other, value)| (other == name).then_some(value))
    }

    /// From its start to its end.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.end.saturating_sub(self.start)
    }
}

impl Kind {
    const fn new(kind: SpanKind) -> Self {
        match kind {
            SpanKind::Unspecified => Self::Unspecified,
            SpanKind::Internal => Self::Internal,
            SpanKind::Server => Self::Server,
            SpanKind::Client => Self::Client,
            SpanKind::Producer => Self::Producer,
            SpanKind::Consumer => Self::Consumer,
        }
    }
}

impl Status {
    const fn new(status: StatusCode) -> Self {
        match status {
            StatusCode::Unset => Self::Unset,
            StatusCode::Ok => Self::Ok,
            StatusCode::Error => Self::Error,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

fn attribute(pair: KeyValue) -> (String, Value) {
    let value = match pair.value.and_then(|AnyValue { value }| value) {
        Some(any_value::Value::StringValue(text)) => Value::Text(text),
        Some(any_value::Value::BoolValue(value)) => Value::Bool(value),
        Some(any_value::Value::IntValue(value)) => Value::Int(value),
        Some(any_value::Value::DoubleValue(value)) => Value::Double(value),
        _ => Value::Other,
    };
    (pair.key, value)
}

fn hex(id: &[u8]) -> String {
    id.iter()
        .fold(String::with_capacity(2 * id.len()), |mut text, byte| {
            // Writing to a string cannot fail.
            let _written = write!(text, "{byte:02x}");
            text
        })
}
