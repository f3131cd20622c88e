//! Attempts, retries and errors in traces.

use std::time::Duration;

use hermes_engine_sim::{EngineHandle, Fault};
use hermes_testkit::collector::{Collector, Kind, Span, Status, Value};

use crate::{context::*, router::Router};

#[tokio::test]
async fn every_attempt_of_a_retried_request_has_a_span() {
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

    // Round robin sends one of the two to the broken engine first.
    let number = if of_kind(&collector.trace(&trace_id(1)), Kind::Client).len() == 2 {
        1
    } else {
        2
    };
    let spans = collector.trace(&trace_id(number));
    let [first, second] = assert_two_attempts(&spans, &sound);
    for (engine, attempt) in [(&broken, first), (&sound, second)] {
        let parent = format!("00-{}-{}-01", trace_id(number), attempt.span_id);
        assert_eq!(sent(engine, number).header("traceparent"), Some(&*parent));
    }
}

/// Asserts a failed attempt and a successful one at `sound`, one after the other. Returns both.
fn assert_two_attempts<'s>(spans: &'s [Span], sound: &EngineHandle) -> [&'s Span; 2] {
    let server = server(spans);
    let [first, second] = of_kind(spans, Kind::Client)[..] else {
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
    [first, second]
}

#[tokio::test]
async fn failed_requests_are_errors_in_traces_and_rejected_bad_requests_are_not() {
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
    send_failing_requests(&router, &engine).await;
    assert!(router.stop().await.0.success());

    for case in CASES {
        assert_failure(&collector.trace(&trace_id(case.trace)), &case);
    }
}

/// Sends the requests of [`CASES`], each in its trace.
async fn send_failing_requests(router: &Router, engine: &EngineHandle) {
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
    // Twice: on a connection that was used before, the first reset can mean that it was closed
    // while idle, and the request is repeated once.
    engine.faults().set_for(2, Fault::ResetBeforeHeaders);
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
}

/// What the trace of a request contains.
struct Case {
    trace: u32,
    name: &'static str,
    status: Status,
    code: i64,
    error_type: &'static str,
    /// The error type of each attempt.
    attempts: &'static [&'static str],
}

const CASES: [Case; 5] = [
    Case {
        trace: 1,
        name: "POST /v1/chat/completions",
        status: Status::Error,
        code: 502,
        error_type: "502",
        attempts: &["502"],
    },
    Case {
        trace: 2,
        name: "POST /v1/chat/completions",
        status: Status::Error,
        code: 502,
        error_type: "upstream_failed",
        attempts: &["connection_broken"],
    },
    Case {
        trace: 3,
        name: "POST /v1/chat/completions",
        status: Status::Error,
        code: 200,
        error_type: "truncated",
        attempts: &["truncated"],
    },
    Case {
        trace: 4,
        name: "POST /v1/chat/completions",
        status: Status::Unset,
        code: 404,
        error_type: "model_not_found",
        attempts: &[],
    },
    Case {
        trace: 5,
        name: "GET",
        status: Status::Unset,
        code: 404,
        error_type: "unknown_url",
        attempts: &[],
    },
];

fn assert_failure(spans: &[Span], case: &Case) {
    let server = server(spans);
    assert_eq!(
        (&*server.name, server.status),
        (case.name, case.status),
        "{server:#?}"
    );
    says(
        server,
        &[
            ("http.response.status_code", Value::Int(case.code)),
            ("error.type", case.error_type.into()),
        ],
    );
    let clients = of_kind(spans, Kind::Client);
    assert_eq!(clients.len(), case.attempts.len(), "{spans:#?}");
    for (client, error_type) in clients.into_iter().zip(case.attempts) {
        assert_eq!(client.status, Status::Error);
        says(client, &[("error.type", (*error_type).into())]);
    }
}
