//! The traces of the built binary, as a collector gets them: from the client through both planes to
//! the engine.

#[path = "trace/context.rs"]
mod context;
#[path = "trace/failures.rs"]
mod failures;
#[path = "trace/pairs.rs"]
mod pairs;
#[path = "trace/router.rs"]
mod router;

use std::{net::TcpListener, time::Duration};

use hermes_engine_sim::EngineHandle;
use hermes_testkit::collector::{Collector, Kind, Span, Status, Value};
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use context::*;
use router::{KEY, PATIENCE, Router, STATE};

#[tokio::test]
async fn one_trace_leads_from_the_client_through_both_planes_to_the_engine() {
    for protocol in PROTOCOLS {
        trace_of_one_chat(protocol).await;
    }
}

/// Sends one chat, with spans exported by `protocol`, and asserts its whole trace.
async fn trace_of_one_chat(protocol: &str) {
    let (collector, engine) = (
        Collector::start().await.expect("a collector"),
        engine().await,
    );
    let name = protocol.replace('/', "-");
    let router = Router::start(
        &name,
        "kv-aware",
        &[&engine],
        &exporting(&collector.url(), protocol),
    )
    .await;

    let response = router.chat(&traceparent(1, "01"), &chat("sim", true)).await;
    let request_id = response.headers()["x-request-id"]
        .to_str()
        .expect("ASCII")
        .to_owned();
    let (streamed, usage) = stream(response).await;

    // Spans are exported while the router runs, not only when it stops.
    let spans = collector
        .trace_when(&trace_id(1), Instant::now() + PATIENCE, |spans| {
            spans.len() >= 4
        })
        .await;
    assert_eq!(spans.len(), 4, "{protocol}: {spans:#?}");
    assert!(
        spans
            .iter()
            .all(|span| span.service == "hermes" && span.status == Status::Unset),
        "{spans:#?}"
    );
    let server = server(&spans);
    let [route, score, attempt] = assert_parents_and_times(&spans, streamed);
    assert_server_span(server, &request_id, &engine, &usage);
    assert_inner_spans([route, score, attempt], &engine);

    let forwarded = sent(&engine, 1);
    let expected = format!("00-{}-{}-01", trace_id(1), attempt.span_id);
    assert_eq!(forwarded.header("traceparent"), Some(&*expected));
    assert_eq!(forwarded.header("tracestate"), Some(STATE));
    assert_eq!(
        forwarded.header("authorization"),
        Some(&*format!("Bearer {KEY}")),
        "the engine may see it"
    );

    let (ended, _) = router.stop().await;
    assert!(ended.success());
    assert!(collector.holds("chat sim") && !collector.holds(PROMPT) && !collector.holds(KEY));
}

/// Asserts parents, kinds and order of the spans of a streamed chat. Returns those of routing,
/// scoring and the attempt.
fn assert_parents_and_times(spans: &[Span], streamed: Duration) -> [&Span; 3] {
    let server = server(spans);
    let (route, score, attempt) = (
        named(spans, "route"),
        named(spans, "score"),
        named(spans, "chat sim"),
    );
    assert_eq!(
        (&*server.name, &*server.parent_id),
        ("POST /v1/chat/completions", CLIENT)
    );
    assert_eq!(
        (route.kind, &route.parent_id),
        (Kind::Internal, &server.span_id)
    );
    assert_eq!(
        (score.kind, &score.parent_id),
        (Kind::Internal, &route.span_id)
    );
    assert_eq!(
        (attempt.kind, &attempt.parent_id),
        (Kind::Client, &server.span_id)
    );
    assert!(
        attempt.start >= route.end,
        "first the choice, then the attempt"
    );
    assert!(
        attempt.duration() >= streamed && server.duration() >= streamed,
        "{streamed:?}: {spans:#?}"
    );
    [route, score, attempt]
}

fn assert_server_span(server: &Span, request_id: &str, engine: &EngineHandle, usage: &Json) {
    let count = |value: &Json| Value::Int(value.as_i64().expect("a count"));
    says(
        server,
        &[
            ("http.request.method", "POST".into()),
            ("http.route", "/v1/chat/completions".into()),
            ("url.path", "/v1/chat/completions".into()),
            ("http.response.status_code", Value::Int(200)),
            ("client.address", "127.0.0.1".into()),
            ("gen_ai.operation.name", "chat".into()),
            ("gen_ai.request.model", "sim".into()),
            ("gen_ai.request.stream", Value::Bool(true)),
            ("gen_ai.usage.input_tokens", count(&usage["prompt_tokens"])),
            ("gen_ai.usage.output_tokens", Value::Int(8)),
            ("gen_ai.usage.cache_read.input_tokens", Value::Int(0)),
            ("hermes.request.id", request_id.into()),
            ("hermes.outcome", "ok".into()),
            ("hermes.pool", "chat".into()),
            ("hermes.strategy", "kv-aware".into()),
            ("hermes.endpoint", (&*engine.addr().to_string()).into()),
        ],
    );
    let Some(Value::Int(version)) = server.attribute("hermes.snapshot.version") else {
        panic!("{server:#?}")
    };
    assert!(*version > 0);
    let ttft = server.attribute("gen_ai.response.time_to_first_chunk");
    let Some(Value::Double(ttft)) = ttft else {
        panic!("{server:#?}")
    };
    assert!(
        *ttft > 0.0 && *ttft <= server.duration().as_secs_f64(),
        "{ttft} s"
    );
    assert_eq!(
        (
            server.attribute("error.type"),
            server.attribute("http.request.resend_count")
        ),
        (None, None)
    );
}

fn assert_inner_spans([route, score, attempt]: [&Span; 3], engine: &EngineHandle) {
    let endpoint: Value = (&*engine.addr().to_string()).into();
    let choice = [
        ("hermes.pool", "chat".into()),
        ("hermes.strategy", "kv-aware".into()),
        ("hermes.candidates", Value::Int(1)),
        ("hermes.endpoint", endpoint),
        ("hermes.expected.cached_tokens", Value::Int(0)),
    ];
    says(route, &choice);
    says(
        route,
        &[
            ("hermes.decided_by", "score".into()),
            ("hermes.expected.source", "none".into()),
            ("hermes.waited", Value::Double(0.0)),
        ],
    );
    says(score, &choice);
    says(
        attempt,
        &[
            ("gen_ai.operation.name", "chat".into()),
            ("gen_ai.request.model", "sim".into()),
            ("http.request.method", "POST".into()),
            ("http.response.status_code", Value::Int(200)),
            ("server.address", "127.0.0.1".into()),
            ("server.port", Value::Int(engine.addr().port().into())),
        ],
    );
    assert_eq!(
        (
            attempt.attribute("error.type"),
            attempt.attribute("http.request.resend_count")
        ),
        (None, None)
    );
}

#[tokio::test]
async fn spans_of_a_queued_request_have_its_queue_time_and_the_reason_of_the_selection() {
    let (collector, one, other) = (
        Collector::start().await.expect("a collector"),
        engine().await,
        engine().await,
    );
    let url = collector.url();
    let router = Router::start(
        "waited",
        "kv-aware",
        &[&one, &other],
        &exporting(&url, "grpc"),
    )
    .await;
    chat_at_busy_engines(&router, &[&one, &other]).await;
    assert!(router.stop().await.0.success());

    let spans = collector.trace(&trace_id(3));
    let (chosen, left): (&EngineHandle, &EngineHandle) = if one.stats().requests == 2 {
        (&one, &other)
    } else {
        (&other, &one)
    };
    assert_queued(&spans, chosen, left);
}

/// Keeps both engines busy with unsampled requests, and meanwhile sends one in trace 3.
async fn chat_at_busy_engines(router: &Router, engines: &[&EngineHandle; 2]) {
    // Each takes an engine two seconds.
    let long = |number: usize| {
        let text = format!("{number} {}", "why does it rain? ".repeat(3_600));
        json!({"model": "sim", "max_tokens": 1, "stream": true, "messages": [{"role": "user", "content": text}]})
    };
    let (first, second) = (long(1), long(2));
    let busy = async {
        let (unsampled, second_too) = (traceparent(1, "00"), traceparent(2, "00"));
        let answers = tokio::join!(
            router.chat(&unsampled, &first),
            router.chat(&second_too, &second)
        );
        for answer in [answers.0, answers.1] {
            answer.bytes().await.expect("a whole answer");
        }
    };
    let waits = async {
        let both_work = async {
            while engines[0].stats().requests + engines[1].stats().requests < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, both_work)
            .await
            .expect("both engines get a request in time");
        assert_eq!(
            router
                .chat(&traceparent(3, "01"), &chat("sim", false))
                .await
                .status(),
            200
        );
    };
    tokio::join!(busy, waits);
}

fn assert_queued(spans: &[Span], chosen: &EngineHandle, left: &EngineHandle) {
    let (route, score) = (named(spans, "route"), named(spans, "score"));
    let seconds = |span: &Span, name: &str| match span.attribute(name) {
        Some(Value::Double(seconds)) => *seconds,
        _ => panic!("{name} of {span:#?}"),
    };
    let waited = seconds(route, "hermes.waited");
    assert!(
        waited > 0.1 && waited <= route.duration().as_secs_f64(),
        "{waited}: {route:#?}"
    );
    assert!(
        seconds(route, "hermes.gamma") > 0.0,
        "engines were busy: {route:#?}"
    );
    assert!(
        seconds(route, "hermes.expected.wait") < 0.05,
        "it was bound when there was room: {route:#?}"
    );
    assert!(seconds(route, "hermes.expected.time_to_first_token") > 0.0);
    says(
        route,
        &[
            ("hermes.decided_by", "score".into()),
            ("hermes.endpoint", (&*chosen.addr().to_string()).into()),
            ("hermes.runner_up", (&*left.addr().to_string()).into()),
        ],
    );
    assert!(seconds(score, "hermes.waited") > 0.1, "{score:#?}");
}

#[tokio::test]
async fn an_unsampled_trace_is_propagated_and_not_exported() {
    let (collector, engine) = (
        Collector::start().await.expect("a collector"),
        engine().await,
    );
    let url = collector.url();
    let router = Router::start(
        "unsampled",
        "kv-aware",
        &[&engine],
        &exporting(&url, "grpc"),
    )
    .await;
    assert_eq!(
        router
            .chat(&traceparent(1, "00"), &chat("sim", false))
            .await
            .status(),
        200
    );
    assert!(router.stop().await.0.success());

    assert_eq!(collector.spans(), []);
    let forwarded = sent(&engine, 1);
    assert_eq!(
        forwarded.header("traceparent"),
        Some(&*traceparent(1, "00"))
    );
    assert_eq!(forwarded.header("tracestate"), Some(STATE));
}

#[tokio::test]
async fn without_a_collector_the_trace_context_is_propagated_unchanged() {
    let engine = engine().await;
    let router = Router::start("none", "kv-aware", &[&engine], &[]).await;
    assert_eq!(
        router
            .chat(&traceparent(1, "01"), &chat("sim", false))
            .await
            .status(),
        200
    );
    let forwarded = sent(&engine, 1);
    assert_eq!(
        forwarded.header("traceparent"),
        Some(&*traceparent(1, "01"))
    );
    assert_eq!(forwarded.header("tracestate"), Some(STATE));
    assert!(router.stop().await.0.success());
}

#[tokio::test]
async fn a_collector_that_never_answers_delays_neither_requests_nor_the_shutdown() {
    let engine = engine().await;
    // The system accepts connections to it, and no process reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = format!("http://{}", silent.local_addr().expect("an address"));
    let unreachable = "http://127.0.0.1:9".to_owned();
    for (index, (url, protocol)) in [
        (&silent, PROTOCOLS[0]),
        (&silent, PROTOCOLS[1]),
        (&unreachable, "grpc"),
    ]
    .iter()
    .enumerate()
    {
        let mut variables = exporting(url, protocol).to_vec();
        variables.push(("OTEL_EXPORTER_OTLP_TIMEOUT", "600000"));
        let router =
            Router::start(&format!("away-{index}"), "kv-aware", &[&engine], &variables).await;
        for number in 1..=20 {
            let status = router
                .chat(&traceparent(number, "01"), &chat("sim", false))
                .await
                .status();
            assert_eq!(status, 200, "{url} {protocol}");
        }
        let (ended, took) = router.stop().await;
        assert!(
            ended.success() && took < Duration::from_secs(30),
            "{url} {protocol}: {took:?}"
        );
    }
}
