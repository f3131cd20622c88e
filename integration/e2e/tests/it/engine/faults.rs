//! Faults on demand, as a client sees them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::time::Duration;

use hermes_engine_sim::{EngineConfig, Fault};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::wire::{eventually, get, metric, post, send, start, tiny};

const JSON: &str = "content-type: application/json";
const BODY: &str = r#"{"model":"tiny","prompt":"x","max_tokens":8}"#;
const STREAM: &str = r#"{"model":"tiny","prompt":"x","max_tokens":8,"stream":true}"#;

#[tokio::test]
async fn a_refusing_port_refuses_until_it_is_cleared() {
    let engine = start(tiny()).await;
    let mut idle = send(engine.addr(), "GET", "/health", &[], "")
        .await
        .unwrap();
    eventually("answered", || engine.stats().accepted_connections == 1).await;
    engine.faults().set(Fault::RefuseConnections);
    let refused = send(engine.addr(), "POST", "/v1/completions", &[JSON], BODY)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    idle.read_to_end(&mut Vec::new())
        .await
        .expect("the idle connection is closed");
    engine.faults().clear();
    assert_eq!(post(&engine, "/v1/completions", BODY).await.status, 200);
}

#[tokio::test]
async fn a_reset_or_a_close_comes_before_any_byte() {
    let engine = start(tiny()).await;
    engine.faults().set_for(1, Fault::ResetBeforeHeaders);
    let mut raw = Vec::new();
    let mut client = send(engine.addr(), "POST", "/v1/completions", &[JSON], BODY)
        .await
        .unwrap();
    assert_eq!(
        client.read_to_end(&mut raw).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    engine.faults().set_for(1, Fault::CloseBeforeHeaders);
    let mut client = send(engine.addr(), "POST", "/v1/completions", &[JSON], BODY)
        .await
        .unwrap();
    assert_eq!(client.read_to_end(&mut raw).await.unwrap(), 0);
    assert_eq!(
        post(&engine, "/v1/completions", BODY).await.status,
        200,
        "each struck one request"
    );
}

#[tokio::test]
async fn a_stalled_request_is_read_and_not_answered_while_health_is_good() {
    let engine = start(tiny()).await;
    engine.faults().set(Fault::StallBeforeHeaders);
    let mut client = send(engine.addr(), "POST", "/v1/completions", &[JSON], BODY)
        .await
        .unwrap();
    eventually("received", || engine.stats().requests == 1).await;
    assert!(
        timeout(Duration::from_millis(50), client.read_u8())
            .await
            .is_err()
    );
    assert_eq!(get(&engine, "/health").await.status, 200);
    drop(client);
    eventually("let go", || engine.stats().open_connections == 0).await;
}

#[tokio::test]
async fn a_stream_dies_after_its_tokens_closed_or_reset() {
    let engine = start(tiny()).await;
    for reset in [false, true] {
        engine.faults().set_for(
            1,
            Fault::DieMidStream {
                after_tokens: 3,
                reset,
            },
        );
        let mut client = send(engine.addr(), "POST", "/v1/completions", &[JSON], STREAM)
            .await
            .unwrap();
        let mut raw = Vec::new();
        let end = client.read_to_end(&mut raw).await;
        let text = String::from_utf8(raw).unwrap();
        assert_eq!(text.matches("\"index\":0").count(), 3);
        assert!(!text.contains("[DONE]") && !text.ends_with("0\r\n\r\n"));
        assert_eq!(
            end.err().map(|error| error.kind()),
            reset.then_some(ErrorKind::ConnectionReset)
        );
    }
}

#[tokio::test]
async fn a_stream_stalls_after_its_tokens_and_stays_open() {
    let engine = start(tiny()).await;
    engine
        .faults()
        .set(Fault::StallMidStream { after_tokens: 2 });
    let mut client = send(engine.addr(), "POST", "/v1/completions", &[JSON], STREAM)
        .await
        .unwrap();
    let mut raw = Vec::new();
    while String::from_utf8_lossy(&raw).matches("\"index\":0").count() < 2 {
        client.read_buf(&mut raw).await.unwrap();
    }
    let rest = timeout(Duration::from_millis(50), client.read_to_end(&mut raw)).await;
    assert!(rest.is_err(), "the stream stays open");
    assert_eq!(
        String::from_utf8_lossy(&raw).matches("\"index\":0").count(),
        2
    );
}

#[tokio::test]
async fn a_status_is_injected_with_and_without_retry_after() {
    let engine = start(tiny()).await;
    engine.faults().set_for(
        1,
        Fault::Status {
            code: 429,
            retry_after: Some(7),
        },
    );
    let answer = post(&engine, "/v1/completions", BODY).await;
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (429, Some("7"))
    );
    engine.faults().set_for(
        1,
        Fault::Status {
            code: 503,
            retry_after: None,
        },
    );
    let answer = post(&engine, "/v1/completions", BODY).await;
    assert_eq!(
        (
            answer.status,
            answer.header("retry-after"),
            &answer.json()["error"]["code"]
        ),
        (503, None, &503.into())
    );
    assert_eq!(post(&engine, "/v1/completions", BODY).await.status, 200);
}

#[tokio::test]
async fn metrics_are_wrong_fail_hang_or_are_garbage() {
    let engine = start(tiny()).await;
    let wrong = BTreeMap::from([("vllm:num_requests_waiting".to_owned(), 99.0)]);
    engine
        .faults()
        .set_for(1, Fault::MetricsValues { values: wrong });
    assert_eq!(metric(&engine, "vllm:num_requests_waiting").await, 99.0);
    assert_eq!(metric(&engine, "vllm:num_requests_waiting").await, 0.0);
    engine
        .faults()
        .set_for(1, Fault::MetricsStatus { code: 500 });
    assert_eq!(get(&engine, "/metrics").await.status, 500);
    engine.faults().set_for(1, Fault::MetricsGarbage);
    assert!(!get(&engine, "/metrics").await.body.contains("# HELP"));
    engine.faults().set_for(1, Fault::MetricsHang);
    let mut client = send(engine.addr(), "GET", "/metrics", &[], "")
        .await
        .unwrap();
    assert!(
        timeout(Duration::from_millis(50), client.read_u8())
            .await
            .is_err()
    );
    engine.faults().set_for(1, Fault::Unhealthy);
    assert_eq!(
        (
            get(&engine, "/health").await.status,
            get(&engine, "/health").await.status
        ),
        (503, 200)
    );
}

#[tokio::test]
async fn faults_can_be_ordered_over_http() {
    let engine = start(tiny()).await;
    let answer = post(
        &engine,
        "/sim/faults",
        r#"{"kind":"status","code":500,"requests":1}"#,
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(post(&engine, "/v1/completions", BODY).await.status, 500);
    assert_eq!(post(&engine, "/v1/completions", BODY).await.status, 200);
    assert_eq!(
        post(&engine, "/sim/faults", r#"{"kind":"no such thing"}"#)
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn a_slow_engine_takes_longer_for_each_step() {
    let engine = start(EngineConfig {
        time_scale: 1.0,
        step_base: Duration::from_millis(1),
        ..tiny()
    })
    .await;
    engine.faults().set(Fault::Slow { factor: 1e6 });
    let mut client = send(engine.addr(), "POST", "/v1/completions", &[JSON], BODY)
        .await
        .unwrap();
    eventually("running", || engine.stats().running == 1).await;
    assert!(
        timeout(Duration::from_millis(50), client.read_u8())
            .await
            .is_err()
    );
}
