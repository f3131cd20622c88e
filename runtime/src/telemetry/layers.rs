//! The subscriber: a layer for log lines and, when traces are exported, a layer for trace spans.

use super::{Environment, LogFormat, TRACE_TARGET, TelemetryError};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::io::IsTerminal;
use tracing::level_filters::LevelFilter;
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::{FilterExt, FilterFn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry};

const LOG: &str = "HERMES_LOG";

type BoxedLayer<S> = Box<dyn Layer<S> + Send + Sync>;

/// The directives of `HERMES_LOG`; `info` when unset.
pub(super) fn log_filter(environment: &impl Environment) -> Result<EnvFilter, TelemetryError> {
    let directives = environment.value(LOG).unwrap_or_default();
    Ok(EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(directives)?)
}

/// Log lines to `writer`, trace spans to `traces` when there is one.
pub(super) fn subscriber<W>(
    format: LogFormat,
    filter: EnvFilter,
    writer: W,
    traces: Option<&SdkTracerProvider>,
) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let mut layers = vec![log_layer::<Registry, W>(format, filter, writer)];
    layers.extend(traces.map(trace_layer));
    Registry::default().with(layers)
}

fn log_layer<S, W>(format: LogFormat, filter: EnvFilter, writer: W) -> BoxedLayer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    // The hint keeps the maximum level that the directives allow, which `and` would otherwise
    // forget.
    let is_line = FilterFn::new(|metadata| !is_trace(metadata) && !quotes_bodies(metadata))
        .with_max_level_hint(LevelFilter::TRACE);
    let filter = filter.and(is_line);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Text => layer
            .with_ansi(std::io::stderr().is_terminal())
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_filter(filter)
            .boxed(),
    }
}

fn trace_layer<S>(traces: &SdkTracerProvider) -> BoxedLayer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    // Locations, threads and busy times are many attributes per span that say nothing about a
    // request.
    let layer = tracing_opentelemetry::layer()
        .with_tracer(traces.tracer("hermes"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_target(false);
    layer.with_filter(FilterFn::new(is_trace)).boxed()
}

fn is_trace(metadata: &Metadata<'_>) -> bool {
    metadata.target() == TRACE_TARGET
}

/// Whether it is of the module that logs the whole of a response which it cannot parse: one of the
/// Kubernetes API may be a list of Secrets.
fn quotes_bodies(metadata: &Metadata<'_>) -> bool {
    metadata.target() == "kube_client::client"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{propagation, telemetry::ONE_SUBSCRIBER};
    use opentelemetry::trace::{SpanId, SpanKind};
    use opentelemetry::{Key, Value};
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SpanData};
    use parking_lot::Mutex;
    use std::io::{self, Write};
    use std::sync::Arc;
    use tracing::info_span;

    const INCOMING: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Runs `scenario` under a subscriber and returns its log lines and the spans that it exported.
    fn record(directives: &str, traces: bool, scenario: impl FnOnce()) -> (String, Vec<SpanData>) {
        let environment = |name: &str| (name == LOG).then(|| directives.to_owned());
        let filter = log_filter(&environment).expect("directives");
        let lines = Lines::default();
        let writer = lines.clone();
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let traces = traces.then_some(&provider);
        let subscriber = subscriber(LogFormat::Json, filter, move || writer.clone(), traces);
        let one = ONE_SUBSCRIBER.blocking_lock();
        tracing::subscriber::with_default(subscriber, scenario);
        drop(one);
        let text = String::from_utf8(lines.0.lock().clone()).expect("log lines are text");
        (text, exporter.get_finished_spans().expect("spans"))
    }

    #[test]
    fn without_an_exporter_trace_spans_are_disabled_and_their_fields_are_not_evaluated() {
        let (log, _) = record("trace", false, || {
            let span = info_span!(target: TRACE_TARGET, "request", cost = { assert!(log_only(), "evaluated"); 1 });
            assert!(span.is_disabled());
            tracing::info!("a line");
        });
        assert!(log.contains("a line"), "{log}");
    }

    #[test]
    fn without_an_exporter_trace_call_sites_are_off_for_good_and_levels_are_bounded() {
        let filter = log_filter(&|_: &str| None).expect("directives");
        let subscriber = subscriber(LogFormat::Text, filter, io::sink, None);
        let _one = ONE_SUBSCRIBER.blocking_lock();
        let span = tracing::subscriber::with_default(
            Registry::default(),
            || info_span!(target: TRACE_TARGET, "request"),
        );
        let metadata = span.metadata().expect("an enabled span has metadata");
        assert!(subscriber.register_callsite(metadata).is_never());
        assert_eq!(subscriber.max_level_hint(), Some(LevelFilter::INFO));
    }

    fn log_only() -> bool {
        false
    }

    #[test]
    fn log_directives_decide_what_is_logged() {
        let (log, _) = record("warn,hermes_loud=debug", false, || {
            tracing::info!(target: "hermes_quiet", "not this");
            tracing::warn!(target: "hermes_quiet", "but this");
            tracing::debug!(target: "hermes_loud", "and this");
        });
        assert_eq!(log.lines().count(), 2, "{log}");
        assert!(
            log.contains("but this") && log.contains("and this"),
            "{log}"
        );
    }

    #[test]
    fn unset_directives_mean_info() {
        let (log, _) = record("", false, || {
            tracing::debug!("not this");
            tracing::info!(answer = 42, "but this");
        });
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(
            log.contains("\"message\":\"but this\"") && log.contains("\"answer\":42"),
            "{log}"
        );
    }

    #[test]
    fn logs_and_traces_do_not_see_each_other() {
        let (log, spans) = record("trace", true, || {
            let request = info_span!(target: TRACE_TARGET, "request");
            let _request = request.enter();
            let h2 = info_span!(target: "h2::client", "handshake");
            h2.in_scope(|| tracing::info!("a line"));
        });
        assert!(
            log.contains("a line") && log.contains("handshake") && !log.contains("request"),
            "{log}"
        );
        let names: Vec<&str> = spans.iter().map(|span| span.name.as_ref()).collect();
        assert_eq!(names, ["request"]);
    }

    #[test]
    fn a_request_continues_the_clients_trace_and_hands_it_on() {
        let incoming = propagation::extract_pair(INCOMING, "vendor=1");
        let (mut onward, mut state) = Default::default();
        let (_, spans) = record("off", true, || {
            let server = info_span!(
                target: TRACE_TARGET,
                "request",
                otel.name = "POST /v1/chat/completions",
                otel.kind = "server",
                "http.response.status_code" = 200_i64,
            );
            propagation::adopt(&server, &incoming);
            let _server = server.enter();
            let client = info_span!(target: TRACE_TARGET, "attempt", otel.kind = "client");
            (onward, state) = propagation::inject_pair(&propagation::egress(&client, &incoming));
        });
        let [client, server] = &spans[..] else {
            panic!("two spans: {spans:?}")
        };
        assert_eq!(
            (server.name.as_ref(), &server.span_kind),
            ("POST /v1/chat/completions", &SpanKind::Server)
        );
        assert_eq!(
            server.parent_span_id,
            SpanId::from_hex("b7ad6b7169203331").expect("hex")
        );
        assert!(server.parent_span_is_remote);
        let status = server
            .attributes
            .iter()
            .find(|pair| pair.key == Key::from_static_str("http.response.status_code"));
        assert_eq!(status.map(|pair| &pair.value), Some(&Value::I64(200)));

        assert_eq!(
            (&client.span_kind, client.parent_span_id),
            (&SpanKind::Client, server.span_context.span_id())
        );
        let expected = format!(
            "00-0af7651916cd43dd8448eb211c80319c-{}-01",
            client.span_context.span_id()
        );
        assert_eq!((onward, state), (expected, "vendor=1".to_owned()));
    }

    #[test]
    fn spans_carry_only_the_attributes_that_were_given() {
        let (_, spans) = record("off", true, || {
            info_span!(target: TRACE_TARGET, "route", candidates = 8_i64).in_scope(|| {});
        });
        let keys: Vec<&str> = spans[0]
            .attributes
            .iter()
            .map(|pair| pair.key.as_str())
            .collect();
        assert_eq!(keys, ["candidates"]);
    }

    #[test]
    fn no_directive_shows_the_body_of_a_response_of_the_kubernetes_api() {
        let (lines, _) = record("trace,kube_client::client=trace", false, || {
            tracing::warn!(target: "kube_client::client", "a list of Secrets");
            tracing::debug!(target: "kube_client::client::builder", "requesting");
        });
        assert!(!lines.contains("Secrets"), "{lines}");
        assert!(lines.contains("requesting"), "{lines}");
    }
}
