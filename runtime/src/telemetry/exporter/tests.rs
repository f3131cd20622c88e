//! Exports to a stand-in for a collector, over real sockets.

use super::*;
use crate::crypto::install_default_crypto;
use crate::telemetry::layers;
use crate::telemetry::{LogFormat, ONE_SUBSCRIBER, Service, TRACE_TARGET, Telemetry};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_sdk::error::OTelSdkError;
use parking_lot::Mutex;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(10);

/// What a collector got: path, headers, body.
type Received = Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>;

/// A collector that keeps what it gets. It stops when it is dropped.
struct Collector {
    address: SocketAddr,
    received: Received,
    _server: JoinSet<()>,
}

impl Collector {
    async fn start(protocol: Protocol) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("an address");
        let received = Received::default();
        let mut server = JoinSet::new();
        server.spawn(accept(listener, protocol, Arc::clone(&received)));
        Self {
            address,
            received,
            _server: server,
        }
    }
}

async fn accept(listener: TcpListener, protocol: Protocol, received: Received) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let received = Arc::clone(&received);
        connections.spawn(async move {
            let service = service_fn(|request| take(request, protocol, Arc::clone(&received)));
            let stream = TokioIo::new(stream);
            let ended = match protocol {
                Protocol::Grpc => {
                    http2::Builder::new(TokioExecutor::new())
                        .serve_connection(stream, service)
                        .await
                }
                Protocol::HttpProtobuf => {
                    http1::Builder::new()
                        .serve_connection(stream, service)
                        .await
                }
            };
            // The exporter leaves when it is shut down, in whatever state.
            let _gone = ended;
        });
    }
}

type Answer = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn take(
    request: Request<Incoming>,
    protocol: Protocol,
    received: Received,
) -> Result<Response<Answer>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a whole body").to_bytes();
    received
        .lock()
        .push((head.uri.path().to_owned(), head.headers, body));
    Ok(match protocol {
        Protocol::HttpProtobuf => Response::new(BodyExt::boxed(Full::default())),
        Protocol::Grpc => grpc_answer(),
    })
}

/// An empty message in its five byte frame, and the trailer that says that all is well.
fn grpc_answer() -> Response<Answer> {
    let status = (
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    );
    let trailers = HeaderMap::from_iter([status]);
    let body =
        Full::new(Bytes::from_static(&[0; 5])).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(BodyExt::boxed(body));
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn settings(collector: &Collector, protocol: &'static str) -> TelemetrySettings {
    let endpoint = format!("http://{}", collector.address);
    let environment = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some(endpoint.clone()),
        "OTEL_EXPORTER_OTLP_PROTOCOL" => Some(protocol.to_owned()),
        "OTEL_EXPORTER_OTLP_HEADERS" => Some("authorization=Bearer%20hunter2".to_owned()),
        "OTEL_SERVICE_NAME" => Some("service-under-test".to_owned()),
        _ => None,
    };
    let service = Service {
        name: "hermes-test",
        version: "0.0.0",
    };
    TelemetrySettings::read(&environment, service)
        .expect("understood")
        .expect("traces are asked for")
}

/// Records one span under `settings`, shuts down, and answers what the collector got.
async fn export_one_span(
    collector: &Collector,
    settings: &TelemetrySettings,
) -> (String, HeaderMap, Bytes) {
    install_default_crypto();
    let provider = provider(settings).expect("an exporter");
    let filter = layers::log_filter(&|_: &str| None).expect("directives");
    let subscriber = layers::subscriber(LogFormat::Text, filter, std::io::sink, Some(&provider));
    let one = ONE_SUBSCRIBER.lock().await;
    tracing::subscriber::with_default(subscriber, || {
        tracing::info_span!(target: TRACE_TARGET, "the-span-under-test").in_scope(|| {});
    });
    drop(one);
    Telemetry {
        traces: Some(provider),
    }
    .shutdown(PATIENCE)
    .await;
    collector.received.lock().pop().expect("one export")
}

fn holds(body: &Bytes, text: &str) -> bool {
    body.windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn spans_reach_a_collector_over_http() {
    let collector = Collector::start(Protocol::HttpProtobuf).await;
    let settings = settings(&collector, "http/protobuf");
    let (path, headers, body) = export_one_span(&collector, &settings).await;
    assert_eq!(path, "/v1/traces");
    assert_eq!(headers["content-type"], "application/x-protobuf");
    assert_eq!(headers["authorization"], "Bearer hunter2");
    assert!(holds(&body, "the-span-under-test") && holds(&body, "service-under-test"));
}

#[tokio::test]
async fn spans_reach_a_collector_over_grpc() {
    let collector = Collector::start(Protocol::Grpc).await;
    let settings = settings(&collector, "grpc");
    let (path, headers, body) = export_one_span(&collector, &settings).await;
    assert_eq!(
        path,
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    );
    assert_eq!(headers["authorization"], "Bearer hunter2");
    assert!(holds(&body, "the-span-under-test") && holds(&body, "service-under-test"));
}

#[test]
fn grpc_outside_of_a_runtime_is_an_error() {
    let environment = |name: &str| match name {
        "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("http://127.0.0.1:4317".to_owned()),
        "OTEL_EXPORTER_OTLP_PROTOCOL" => Some("grpc".to_owned()),
        _ => None,
    };
    let service = Service {
        name: "hermes-test",
        version: "0.0.0",
    };
    let settings = TelemetrySettings::read(&environment, service)
        .expect("understood")
        .expect("traces are asked for");
    assert!(matches!(
        provider(&settings),
        Err(TelemetryError::NoRuntime)
    ));
}

/// Fails or accepts spans, as its switch says.
#[derive(Debug, Default)]
struct Moody {
    fails: AtomicBool,
}

impl SpanExporter for Moody {
    async fn export(&self, _batch: Vec<SpanData>) -> OTelSdkResult {
        if self.fails.load(Ordering::Relaxed) {
            return Err(OTelSdkError::InternalFailure(
                "connection refused".to_owned(),
            ));
        }
        Ok(())
    }
}

#[tokio::test]
async fn an_outage_of_the_collector_is_logged_once_at_each_end() {
    let exporter = Reported {
        inner: Moody::default(),
        failing: AtomicBool::new(false),
    };
    let lines = Arc::new(Mutex::new(Vec::<u8>::new()));
    let filter = layers::log_filter(&|_: &str| None).expect("directives");
    let sink = Arc::clone(&lines);
    let writer = move || Sink(Arc::clone(&sink));
    let subscriber = layers::subscriber(LogFormat::Json, filter, writer, None);
    let _one = ONE_SUBSCRIBER.lock().await;
    let _default = tracing::subscriber::set_default(subscriber);

    for fails in [false, true, true, true, false, false] {
        exporter.inner.fails.store(fails, Ordering::Relaxed);
        assert_eq!(exporter.export(Vec::new()).await.is_err(), fails);
    }
    let text = String::from_utf8(lines.lock().clone()).expect("log lines are text");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].contains("trace export fails") && lines[0].contains("connection refused"),
        "{text}"
    );
    assert!(lines[1].contains("trace export works again"), "{text}");
}

struct Sink(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_attribute_has_the_value_that_was_set_last() {
    let set = [
        ("status", "200"),
        ("error.type", "failed"),
        ("error.type", "upstream_failed"),
        ("model", "m"),
    ];
    let kept = last_values(set.map(|(name, value)| KeyValue::new(name, value)).to_vec());
    let expected = [
        ("status", "200"),
        ("error.type", "upstream_failed"),
        ("model", "m"),
    ];
    assert_eq!(
        kept,
        expected.map(|(name, value)| KeyValue::new(name, value))
    );
}
