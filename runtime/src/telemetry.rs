//! Log lines, and traces over OTLP when the environment asks for them.
//!
//! ```text
//!   log lines, their spans ──▶ HERMES_LOG filter ──▶ stderr, as text or JSON
//!   spans of TRACE_TARGET ───▶ sampler ──▶ batches ──▶ OTLP collector     (only when an endpoint is set)
//! ```
//!
//! The two never mix. Trace spans carry [`TRACE_TARGET`]: the log side does not see them, and the
//! trace side sees nothing else, so that the exporter's own HTTP client cannot trace itself.
//! Without an OTLP endpoint there is no trace side at all: the call sites of trace spans are
//! disabled, and their fields are not even evaluated.
//!
//! `HERMES_LOG` takes `tracing` directives, such as `info,hermes_data_plane=debug`; `info` when
//! unset. Traces follow the standard `OTEL_*` variables, which [`settings`](self) reads strictly: a
//! value that is not understood is an error that names its variable. Header values, which may be
//! secret, appear in no message.

mod environment;
mod exporter;
mod layers;
mod sampler;
mod settings;

pub use environment::{Environment, ProcessEnvironment};

use crate::crypto::install_default_crypto;
use opentelemetry_sdk::trace::SdkTracerProvider;
use settings::TelemetrySettings;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tracing_subscriber::util::SubscriberInitExt;

/// The target of every span that is meant for traces: `info_span!(target: TRACE_TARGET, …)`.
///
/// The trace side exports `i64`, `f64`, `bool` and text fields as they are, and any other integer
/// as text, so cast counts to `i64`. Set the kind by the field `otel.kind`, and a name with a
/// variable part by `otel.name`.
pub const TRACE_TARGET: &str = "hermes::trace";

/// What this process calls itself in traces, unless `OTEL_SERVICE_NAME` says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Such as `hermes-data-plane`.
    pub name: &'static str,
    /// The version of the package.
    pub version: &'static str,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text per event, for people.
    #[default]
    Text,
    /// One JSON object per line, for log collectors.
    Json,
}

/// Logging and tracing of the process, until [`Telemetry::shutdown`].
#[derive(Debug)]
#[must_use = "spans that wait for export are lost without a shutdown"]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// Telemetry could not be set up. No message holds the value of a variable that may be secret.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A variable has a value that is not understood.
    #[error("{variable}=`{value}` is not understood: expected {expected}")]
    Invalid {
        /// The name of the variable.
        variable: &'static str,
        /// What it holds.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A variable whose value may hold credentials is not understood.
    #[error(
        "{variable} is not understood (its value may be secret and is not shown): expected {expected}"
    )]
    InvalidSecret {
        /// The name of the variable.
        variable: &'static str,
        /// What would be right.
        expected: &'static str,
    },
    /// `HERMES_LOG` does not parse.
    #[error(
        "HERMES_LOG is not a list of log directives such as `info,hermes_data_plane=debug`: {0}"
    )]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The exporter refused its settings.
    #[error("the OTLP exporter could not be built: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The HTTP client of the exporter could not be built.
    #[error(
        "the HTTP client for OTLP could not be built; https needs the system's CA certificates"
    )]
    NoClient(#[source] Option<reqwest::Error>),
    /// OTLP over gRPC needs a runtime for its connection.
    #[error("OTLP over gRPC must be set up inside a Tokio runtime")]
    NoRuntime,
    /// Logging can be set up once in a process.
    #[error("logging is set up already in this process")]
    AlreadySet,
}

/// Text that is not a [`LogFormat`].
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a log format: expected `text` or `json`")]
pub struct UnknownLogFormat(String);

// === Telemetry ===

impl Telemetry {
    /// Sets up logs and traces for the process, as its environment says. Call it once, inside the
    /// Tokio runtime, before anything logs; it installs the default TLS provider, which the
    /// exporter needs.
    ///
    /// # Errors
    ///
    /// When a variable is not understood, the exporter cannot be built, or logging was set up
    /// before.
    pub fn init(service: Service, format: LogFormat) -> Result<Self, TelemetryError> {
        Self::from_environment(&ProcessEnvironment, service, format)
    }

    /// Like [`Telemetry::init`], with the variables of `environment`.
    ///
    /// # Errors
    ///
    /// As for [`Telemetry::init`].
    pub fn from_environment(
        environment: &impl Environment,
        service: Service,
        format: LogFormat,
    ) -> Result<Self, TelemetryError> {
        install_default_crypto();
        let filter = layers::log_filter(environment)?;
        let settings = TelemetrySettings::read(environment, service)?;
        let traces = settings.as_ref().map(exporter::provider).transpose()?;
        let subscriber = layers::subscriber(format, filter, std::io::stderr, traces.as_ref());
        subscriber
            .try_init()
            .map_err(|_taken| TelemetryError::AlreadySet)?;
        if let Some(settings) = settings {
            settings.log();
        }
        Ok(Self { traces })
    }

    /// Whether spans are recorded and exported.
    #[must_use]
    pub fn exports_traces(&self) -> bool {
        self.traces.is_some()
    }

    /// Exports the spans that wait, for at most `limit`, and ends the export. Logging goes on.
    ///
    /// The export blocks its thread while it needs the runtime's workers, so it runs on a thread of
    /// its own.
    pub async fn shutdown(self, limit: Duration) {
        let Some(traces) = self.traces else {
            return;
        };
        let flush = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(limit));
        match tokio::time::timeout(limit, flush).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the last spans may be lost"),
            Ok(Err(error)) => tracing::warn!(%error, "the last spans may be lost"),
            Err(_elapsed) => tracing::warn!(
                ?limit,
                "the last spans may be lost: the export took too long"
            ),
        }
    }
}

// === LogFormat ===

impl FromStr for LogFormat {
    type Err = UnknownLogFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(UnknownLogFormat(text.to_owned())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Held by tests while they have a subscriber: whether a call site is enabled is decided for the
/// subscribers of all threads together, so that another one's spans could be evaluated here.
#[cfg(test)]
static ONE_SUBSCRIBER: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: Service = Service {
        name: "hermes-test",
        version: "0.0.0",
    };

    #[test]
    fn log_formats_are_read_as_they_are_written() {
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse::<LogFormat>().ok(), Some(format));
        }
        let error = "yaml"
            .parse::<LogFormat>()
            .expect_err("not a format")
            .to_string();
        assert_eq!(
            error,
            "`yaml` is not a log format: expected `text` or `json`"
        );
    }

    #[test]
    fn a_broken_variable_stops_the_start_before_anything_is_set_up() {
        let environment =
            |name: &str| (name == "HERMES_LOG").then(|| "info,=,nonsense=loud".to_owned());
        let error = Telemetry::from_environment(&environment, SERVICE, LogFormat::Text)
            .expect_err("not directives");
        assert!(
            error
                .to_string()
                .starts_with("HERMES_LOG is not a list of log directives"),
            "{error}"
        );
    }

    /// The only test that takes the process-wide subscriber.
    #[tokio::test]
    async fn the_process_is_set_up_once_and_without_an_endpoint_exports_nothing() {
        let nothing = |_: &str| None;
        let telemetry = Telemetry::from_environment(&nothing, SERVICE, LogFormat::Json)
            .expect("the first time");
        assert!(!telemetry.exports_traces());
        let again = Telemetry::from_environment(&nothing, SERVICE, LogFormat::Json);
        assert!(matches!(again, Err(TelemetryError::AlreadySet)));
        telemetry.shutdown(Duration::ZERO).await;
    }
}
