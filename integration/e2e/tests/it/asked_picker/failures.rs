//! Pickers that name no endpoint: what follows is declared by the pool.

use bytes::Bytes;
use h2::Reason;
use hermes_proto::ext_proc::processing_request::Request as Shown;
use hermes_testkit::{
    http2_server::{Http2Answer, Http2Server},
    scripted_picker::{PickerStep, PickerStreamRecord, ScriptedPicker},
};
use serde_json::Value;
use tokio::time::Instant;

use super::{DESTINATION, ORDER, asked, fleet, questions, usual};
use crate::client::{chat, client, eventually, json_of, send};

/// The fleet of [`fleet`], whose picker's failures open.
const OPEN: &str = "failureMode: FailOpen";

/// A picker that does this when it has the whole request.
async fn picker(
    step: impl Fn(&PickerStreamRecord) -> Vec<PickerStep> + Send + Sync + 'static,
) -> ScriptedPicker {
    let script = move |record: &PickerStreamRecord, shown: &Shown| match shown {
        Shown::RequestBody(_) if record.is_asked => step(record),
        _ => Vec::new(),
    };
    ScriptedPicker::start(0, script).await.expect("a port")
}

/// The pool's keys, for a picker whose failures open.
async fn open_fleet(picker: &ScriptedPicker, keys: &str) -> hermes_bench::fleet::Fleet {
    let scene = hermes_bench::fleet::Scene {
        pool: format!(
            "  strategy: round-robin\n  askPicker: {{address: '{}', tls: false, {OPEN}}}\n{keys}",
            picker.address
        ),
        ..hermes_bench::fleet::Scene::of(2, "round-robin")
    };
    scene.start().await.expect("starts")
}

async fn refusal(fleet: &hermes_bench::fleet::Fleet, order: &str) -> (u16, String) {
    let (status, error) =
        json_of(send(chat(&fleet.url(), false, 1).header(ORDER, order)).await).await;
    let message = error["error"]["message"].as_str().unwrap_or_default();
    assert_eq!(error["error"]["code"], Value::from("picker_failed"));
    (status, message.to_owned())
}

#[tokio::test]
async fn an_address_that_is_no_endpoint_of_the_pool_is_no_destination() {
    let picker = ScriptedPicker::start(0, usual).await.expect("a port");
    let closed = fleet(&picker, 1, "").await;
    for order in ["127.0.0.1:1", "169.254.169.254:80", "localhost:80", ""] {
        let (status, message) = refusal(&closed, order).await;
        assert_eq!(status, 503);
        assert!(message.contains("named no endpoint"), "{message}");
    }
    assert!(asked(&closed.engines[0]).is_empty());
    assert!((questions(&closed, "no_endpoint").await - 4.0).abs() < f64::EPSILON);
    let known = format!("127.0.0.1:1,{}", closed.engines[0].addr());
    let request = chat(&closed.url(), false, 1).header(ORDER, known);
    assert_eq!(send(request).await.status(), 200, "the other one is");
    let open = open_fleet(&picker, "").await;
    let request = chat(&open.url(), false, 1).header(ORDER, "127.0.0.1:1");
    assert_eq!(send(request).await.status(), 200);
}

#[tokio::test]
async fn a_picker_that_is_not_reached_closes_or_opens_and_is_asked_again_when_it_is_back() {
    let first = ScriptedPicker::start(0, usual).await.expect("a port");
    let port = first.address.port();
    let (closed, open) = (fleet(&first, 2, "").await, open_fleet(&first, "").await);
    let engine = closed.engines[1].addr().to_string();
    let request = || chat(&closed.url(), false, 1).header(ORDER, &engine);
    assert_eq!(send(request()).await.status(), 200, "a connection is there");
    drop(first);
    let (status, message) = refusal(&closed, &engine).await;
    assert_eq!(status, 503);
    assert!(message.contains("not reached"), "{message}");
    for _ in 0..4 {
        let answer = send(chat(&open.url(), false, 1)).await;
        assert_eq!(answer.status(), 200);
    }
    let served = open.engines.iter().map(|engine| asked(engine).len());
    assert_eq!(served.collect::<Vec<_>>(), [2, 2], "by the pool's strategy");
    assert!((questions(&open, "unreachable").await - 4.0).abs() < f64::EPSILON);
    let _again = ScriptedPicker::start(port, usual).await.expect("the port");
    eventually("the picker is asked again", || async {
        send(request()).await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn a_picker_that_hangs_or_breaks_off_has_failed() {
    let hanging = picker(|_| Vec::new()).await;
    let keys = "  timeouts: {firstByte: 200ms}\n";
    let closed = fleet(&hanging, 1, keys).await;
    let began = Instant::now();
    let (status, message) = refusal(&closed, "").await;
    assert_eq!(status, 503);
    assert!(message.contains("in time"), "{message}");
    assert!(began.elapsed().as_secs() < 10);
    assert!((questions(&closed, "late").await - 1.0).abs() < f64::EPSILON);
    let open = open_fleet(&hanging, keys).await;
    assert_eq!(send(chat(&open.url(), false, 1)).await.status(), 200);

    let breaking = picker(|_| vec![PickerStep::End(tonic::Status::internal("no pods"))]).await;
    let closed = fleet(&breaking, 1, "").await;
    let (status, message) = refusal(&closed, "").await;
    assert_eq!(status, 503);
    assert!(message.contains("broke off"), "{message}");
    assert!(!message.contains("no pods"), "nothing internal: {message}");
    let open = open_fleet(&breaking, "").await;
    assert_eq!(send(chat(&open.url(), true, 1)).await.status(), 200);
}

#[tokio::test]
async fn a_picker_that_breaks_off_after_the_destination_breaks_no_request() {
    let breaking = picker(|record| {
        let order = record.header(ORDER).unwrap_or_default();
        let end = PickerStep::End(tonic::Status::internal("it broke"));
        vec![
            PickerStep::head(&[(DESTINATION, order)]),
            PickerStep::body(&record.body[..5], false),
            end,
        ]
    })
    .await;
    let fleet = fleet(&breaking, 2, "").await;
    let order = fleet.engines[1].addr().to_string();
    let request = chat(&fleet.url(), false, 1).header(ORDER, &order);
    assert_eq!(send(request).await.status(), 200);
    let seen = asked(&fleet.engines[1]).pop().expect("it was chosen");
    assert_eq!(seen.json()["model"], "sim");
}

#[tokio::test]
async fn an_answer_of_the_picker_is_the_clients_whatever_its_failures_do() {
    let refusing = picker(|_| {
        let set = [
            ("retry-after", "7"),
            ("x-llm-d-request-dropped-reason", "rejected-saturated"),
        ];
        vec![PickerStep::reply(429, &set, "too much")]
    })
    .await;
    let fleet = open_fleet(&refusing, "").await;
    let answer = send(chat(&fleet.url(), false, 1)).await;
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "7");
    assert_eq!(
        answer.headers()["x-llm-d-request-dropped-reason"],
        "rejected-saturated"
    );
    assert!(answer.headers().contains_key("x-request-id"));
    assert_eq!(answer.text().await.expect("text"), "too much");
    assert!(fleet.engines.iter().all(|engine| asked(engine).is_empty()));
    assert!((questions(&fleet, "replied").await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_stream_that_the_picker_resets_costs_no_connection_and_is_not_asked_again() {
    let resetting = |_: &http::Request<Bytes>, _| Http2Answer::Reset(Reason::INTERNAL_ERROR);
    let picker = Http2Server::start(resetting).await.expect("a port");
    let scene = hermes_bench::fleet::Scene {
        pool: format!(
            "  strategy: round-robin\n  askPicker: {{address: '{}', tls: false}}\n",
            picker.address
        ),
        ..hermes_bench::fleet::Scene::of(1, "round-robin")
    };
    let fleet = scene.start().await.expect("starts");
    // One connection of a client leads to one thread, which has connections of its own.
    let http = client();
    for number in 1..=3 {
        let request = http.post(format!("{}/v1/chat/completions", fleet.url()));
        let answer = send(request.body(r#"{"model":"sim","messages":[]}"#)).await;
        assert_eq!(answer.status(), 503);
        let error = answer.text().await.expect("whole");
        assert!(error.contains("broke off"), "{error}");
        assert_eq!(picker.requests().len(), number);
    }
    assert_eq!(picker.connections(), 1);
}
