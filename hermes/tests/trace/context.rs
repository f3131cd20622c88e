//! The client of these tests: its chats and trace ids, and what it reads of spans.

use std::{sync::Arc, time::Duration};

use hermes_engine_sim::{Engine, EngineConfig, EngineHandle, RecordedRequest};
use hermes_testkit::collector::{Kind, Span, Value};
use reqwest::Response;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

pub(crate) const PROTOCOLS: [&str; 2] = ["http/protobuf", "grpc"];

/// The client's own span.
pub(crate) const CLIENT: &str = "b7ad6b7169203331";

/// Only the engine may receive it.
pub(crate) const PROMPT: &str = "the-prompt-that-only-the-engine-may-see";

pub(crate) async fn engine() -> EngineHandle {
    Engine::start(EngineConfig::default())
        .await
        .expect("an engine")
}

/// Variables that send traces to the collector, often.
pub(crate) fn exporting<'v>(url: &'v str, protocol: &'v str) -> [(&'v str, &'v str); 3] {
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ]
}

pub(crate) fn trace_id(number: u32) -> String {
    format!("{number:032x}")
}

pub(crate) fn traceparent(number: u32, flags: &str) -> String {
    format!("00-{number:032x}-{CLIENT}-{flags}")
}

pub(crate) fn chat(model: &str, stream: bool) -> Json {
    let message = json!({"role": "user", "content": PROMPT});
    let mut chat =
        json!({"model": model, "max_tokens": 8, "messages": [message], "stream": stream});
    if stream {
        chat["stream_options"] = json!({"include_usage": true});
    }
    chat
}

/// The one chat that an engine got in this trace.
pub(crate) fn sent(engine: &EngineHandle, number: u32) -> Arc<RecordedRequest> {
    let id = trace_id(number);
    let requests = engine.requests();
    let mut chats = requests
        .iter()
        .filter(|request| {
            request
                .header("traceparent")
                .is_some_and(|parent| parent.contains(&id))
        })
        .filter(|request| request.uri.path() == "/v1/chat/completions");
    let chat = Arc::clone(chats.next().expect("a chat"));
    assert!(chats.next().is_none(), "one chat");
    chat
}

pub(crate) fn of_kind(spans: &[Span], kind: Kind) -> Vec<&Span> {
    let mut spans: Vec<_> = spans.iter().filter(|span| span.kind == kind).collect();
    spans.sort_by_key(|span| span.start);
    spans
}

pub(crate) fn server(spans: &[Span]) -> &Span {
    let [server] = of_kind(spans, Kind::Server)[..] else {
        panic!("one server span in {spans:#?}")
    };
    server
}

pub(crate) fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    let [span] = found[..] else {
        panic!("one span `{name}` in {spans:#?}")
    };
    span
}

/// The span says all of this, each once.
#[track_caller]
pub(crate) fn says(span: &Span, attributes: &[(&str, Value)]) {
    for (name, value) in attributes {
        assert_eq!(span.attribute(name), Some(value), "{name} of {span:#?}");
    }
    for (name, _) in &span.attributes {
        assert_eq!(
            span.attributes
                .iter()
                .filter(|(other, _)| other == name)
                .count(),
            1,
            "{name} of {span:#?}"
        );
    }
}

/// A stream to its end: how long it took from its first piece to its last, and its usage.
pub(crate) async fn stream(mut response: Response) -> (Duration, Json) {
    let mut first = None;
    let mut text = String::new();
    while let Some(piece) = response.chunk().await.expect("a whole stream") {
        first.get_or_insert_with(Instant::now);
        text.push_str(&String::from_utf8_lossy(&piece));
    }
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Json>(line.strip_prefix("data: ")?).ok());
    let usage = events
        .map(|event| event["usage"].clone())
        .rfind(|usage| !usage.is_null());
    (first.expect("a piece").elapsed(), usage.expect("usage"))
}
