//! Attempts, retries and errors in traces.

use hermes_engine_sim::Fault;
use hermes_testkit::collector::{Collector, Kind, Status, Value};
use std::time::Duration;

use crate::{context::*, router::Router};

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
