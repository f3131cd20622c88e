//! The traces of the built binary, as a collector gets them: from the client through both planes to the engine.

#[path = "trace/router.rs"]
mod router;

use std::{net::TcpListener, sync::Arc, time::Duration};

use hermes_engine_sim::{Engine, EngineConfig, EngineHandle, Fault, RecordedRequest};
use hermes_testkit::collector::{Collector, Kind, Span, Status, Value};
use reqwest::Response;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use router::{KEY, PATIENCE, Router, STATE};

const PROTOCOLS: [&str; 2] = ["http/protobuf", "grpc"];

/// The client's own span.
const CLIENT: &str = "b7ad6b7169203331";

/// Nobody but the engine may see it.
const PROMPT: &str = "the-prompt-that-nobody-else-may-see";

async fn engine() -> EngineHandle {
    Engine::start(EngineConfig::default())
        .await
        .expect("an engine")
}

/// Variables that send traces to the collector, often.
fn exporting<'v>(url: &'v str, protocol: &'v str) -> [(&'v str, &'v str); 3] {
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ]
}

fn trace_id(number: u32) -> String {
    format!("{number:032x}")
}

fn traceparent(number: u32, flags: &str) -> String {
    format!("00-{number:032x}-{CLIENT}-{flags}")
}

fn chat(model: &str, stream: bool) -> Json {
    let message = json!({"role": "user", "content": PROMPT});
    let mut chat =
        json!({"model": model, "max_tokens": 8, "messages": [message], "stream": stream});
    if stream {
        chat["stream_options"] = json!({"include_usage": true});
    }
    chat
}

/// The one chat that an engine got in this trace.
fn sent(engine: &EngineHandle, number: u32) -> Arc<RecordedRequest> {
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

fn of_kind(spans: &[Span], kind: Kind) -> Vec<&Span> {
    let mut spans: Vec<_> = spans.iter().filter(|span| span.kind == kind).collect();
    spans.sort_by_key(|span| span.start);
    spans
}

fn server(spans: &[Span]) -> &Span {
    let [server] = of_kind(spans, Kind::Server)[..] else {
        panic!("one server span in {spans:#?}")
    };
    server
}

fn named<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    let [span] = found[..] else {
        panic!("one span `{name}` in {spans:#?}")
    };
    span
}

/// The span says all of this, each once.
#[track_caller]
fn says(span: &Span, attributes: &[(&str, Value)]) {
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
async fn stream(mut response: Response) -> (Duration, Json) {
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

#[tokio::test]
async fn one_trace_leads_from_the_client_through_both_planes_to_the_engine() {
    for protocol in PROTOCOLS {
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

        // They come while the router runs: nobody has to stop it.
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
        let (route, score, attempt) = (
            named(&spans, "route"),
            named(&spans, "score"),
            named(&spans, "chat sim"),
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

        the_server_span_says(server, &request_id, &engine, &usage);
        the_other_spans_say([route, score, attempt], &engine);

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
}

fn the_server_span_says(server: &Span, request_id: &str, engine: &EngineHandle, usage: &Json) {
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

fn the_other_spans_say([route, score, attempt]: [&Span; 3], engine: &EngineHandle) {
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
async fn a_request_that_waited_says_so_and_why_it_went_where_it_went() {
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
    // Two seconds of work for each engine.
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
            while one.stats().requests + other.stats().requests < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, both_work)
            .await
            .expect("both engines are asked in time");
        assert_eq!(
            router
                .chat(&traceparent(3, "01"), &chat("sim", false))
                .await
                .status(),
            200
        );
    };
    tokio::join!(busy, waits);
    assert!(router.stop().await.0.success());

    let spans = collector.trace(&trace_id(3));
    let (route, score) = (named(&spans, "route"), named(&spans, "score"));
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
    let (chosen, left): (&EngineHandle, &EngineHandle) = if one.stats().requests == 2 {
        (&one, &other)
    } else {
        (&other, &one)
    };
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
async fn a_request_that_is_sent_again_has_an_attempt_span_each() {
    let (collector, broken, sound) = (
        Collector::start().await.expect("a collector"),
        engine().await,
        engine().await,
    );
    broken.faults().set(Fault::Status {
        code: 502,
        retry_after: None,
    });
    let variables = exporting(&collector.url(), "grpc")
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let router = Router::start("retry", "round-robin", &[&broken, &sound], &variables).await;
    for number in [1, 2] {
        assert_eq!(
            router
                .chat(&traceparent(number, "01"), &chat("sim", false))
                .await
                .status(),
            200
        );
    }
    assert!(router.stop().await.0.success());

    // In turn, so that one of the two came to the broken one first.
    let number = if of_kind(&collector.trace(&trace_id(1)), Kind::Client).len() == 2 {
        1
    } else {
        2
    };
    let spans = collector.trace(&trace_id(number));
    let server = server(&spans);
    let [first, second] = of_kind(&spans, Kind::Client)[..] else {
        panic!("two attempts in {spans:#?}")
    };
    assert_eq!(
        (&first.parent_id, &second.parent_id),
        (&server.span_id, &server.span_id),
        "siblings"
    );
    assert!(
        first.end <= second.start + Duration::from_millis(1),
        "one after the other: {spans:#?}"
    );

    assert_eq!(
        (first.status, second.status, server.status),
        (Status::Error, Status::Unset, Status::Unset)
    );
    says(
        first,
        &[
            ("http.response.status_code", Value::Int(502)),
            ("error.type", "502".into()),
        ],
    );
    assert_eq!(first.attribute("http.request.resend_count"), None);
    says(
        second,
        &[
            ("http.response.status_code", Value::Int(200)),
            ("http.request.resend_count", Value::Int(1)),
        ],
    );
    let endpoint: Value = (&*sound.addr().to_string()).into();
    says(
        server,
        &[
            ("http.request.resend_count", Value::Int(1)),
            ("hermes.endpoint", endpoint),
        ],
    );
    assert_eq!(server.attribute("error.type"), None);
    for (engine, attempt) in [(&broken, first), (&sound, second)] {
        let parent = format!("00-{}-{}-01", trace_id(number), attempt.span_id);
        assert_eq!(sent(engine, number).header("traceparent"), Some(&*parent));
    }
}

#[tokio::test]
async fn failures_are_errors_and_refusals_of_bad_requests_are_not() {
    let (collector, engine) = (
        Collector::start().await.expect("a collector"),
        engine().await,
    );
    let url = collector.url();
    let router = Router::start(
        "errors",
        "round-robin",
        &[&engine],
        &exporting(&url, "http/protobuf"),
    )
    .await;
    let parent = |number| traceparent(number, "01");

    engine.faults().set_for(
        1,
        Fault::Status {
            code: 502,
            retry_after: None,
        },
    );
    assert_eq!(
        router.chat(&parent(1), &chat("sim", false)).await.status(),
        502
    );
    engine.faults().set_for(1, Fault::ResetBeforeHeaders);
    assert_eq!(
        router.chat(&parent(2), &chat("sim", false)).await.status(),
        502
    );
    engine.faults().set_for(
        1,
        Fault::DieMidStream {
            after_tokens: 2,
            reset: true,
        },
    );
    let cut_off = router.chat(&parent(3), &chat("sim", true)).await;
    assert!(cut_off.status() == 200 && cut_off.text().await.is_err());
    assert_eq!(
        router
            .chat(&parent(4), &chat("another", false))
            .await
            .status(),
        404
    );
    let nowhere = router
        .http
        .get(format!("{}/nowhere", router.url))
        .header("traceparent", parent(5));
    assert_eq!(nowhere.send().await.expect("an answer").status(), 404);
    assert!(router.stop().await.0.success());

    let cases = [
        (
            1,
            "POST /v1/chat/completions",
            Status::Error,
            502,
            "502",
            &["502"][..],
        ),
        (
            2,
            "POST /v1/chat/completions",
            Status::Error,
            502,
            "upstream_failed",
            &["connection_broken"],
        ),
        (
            3,
            "POST /v1/chat/completions",
            Status::Error,
            200,
            "broken",
            &["broken"],
        ),
        (
            4,
            "POST /v1/chat/completions",
            Status::Unset,
            404,
            "model_not_found",
            &[],
        ),
        (5, "GET", Status::Unset, 404, "unknown_url", &[]),
    ];
    for (number, name, status, code, error_type, attempts) in cases {
        let spans = collector.trace(&trace_id(number));
        let server = server(&spans);
        assert_eq!(
            (&*server.name, server.status),
            (name, status),
            "{server:#?}"
        );
        says(
            server,
            &[
                ("http.response.status_code", Value::Int(code)),
                ("error.type", error_type.into()),
            ],
        );
        let clients = of_kind(&spans, Kind::Client);
        assert_eq!(clients.len(), attempts.len(), "{spans:#?}");
        for (client, error_type) in clients.into_iter().zip(attempts) {
            assert_eq!(client.status, Status::Error);
            says(client, &[("error.type", (*error_type).into())]);
        }
    }
}

#[tokio::test]
async fn a_trace_that_its_client_does_not_sample_passes_through_and_leaves_nothing() {
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
async fn without_a_collector_a_trace_passes_through_as_it_came() {
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
async fn a_collector_that_never_answers_holds_up_neither_requests_nor_the_end() {
    let engine = engine().await;
    // Connections to it are made, by the system, and nobody reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = format!("http://{}", silent.local_addr().expect("an address"));
    let nobody = "http://127.0.0.1:9".to_owned();
    for (index, (url, protocol)) in [
        (&silent, PROTOCOLS[0]),
        (&silent, PROTOCOLS[1]),
        (&nobody, "grpc"),
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
