//! What a picker is shown of a request, and what becomes of what it says.

use hermes_proto::{Kind, ext_proc::BodySendMode, ext_proc::processing_request::Request as Shown};
use hermes_testkit::scripted_picker::{PickerStep, ScriptedPicker};
use serde_json::{Value, json};

use super::{DESTINATION, ORDER, asked, fleet, questions, usual};
use crate::{
    client::{ask, chat, client, json_of, send},
    recorder::{Front, Recorder},
};

#[tokio::test]
async fn requests_go_where_the_picker_says_and_endpoints_get_what_it_sets() {
    let picker = ScriptedPicker::start(0, usual).await.expect("a port");
    let fleet = fleet(&picker, 3, "").await;
    for engine in &fleet.engines {
        let order = engine.addr().to_string();
        let request = chat(&fleet.url(), false, 3)
            .header(ORDER, &order)
            .header(DESTINATION, "10.6.6.6:1")
            .header("x-prefiller-host-port", "10.6.6.6:1");
        assert_eq!(send(request).await.status(), 200);
        let seen = asked(engine).pop().expect("it was chosen");
        assert_eq!(seen.header(DESTINATION), Some(order.as_str()));
        assert_eq!(seen.header("x-prefiller-host-port"), None, "a client's");
    }
    assert!((questions(&fleet, "picked").await - 3.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn the_picker_is_shown_the_head_the_body_and_what_it_may_choose() {
    let picker = ScriptedPicker::start(0, usual).await.expect("a port");
    let fleet = fleet(&picker, 2, "").await;
    let order = fleet.engines[1].addr().to_string();
    let body = json!({
        "model": "sim", "max_tokens": 1, "kv_transfer_params": {"remote_host": "evil"},
        "messages": [{"role": "user", "content": "long ".repeat(100_000)}],
    });
    let request = ask(&fleet.url(), &body).header(ORDER, &order);
    assert_eq!(send(request).await.status(), 200);
    let seen = picker.streams().pop().expect("one");
    for (name, expected) in [
        (":method", "POST"),
        (":path", "/v1/chat/completions"),
        ("content-type", "application/json"),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(seen.header(name), Some(expected), "{name}");
    }
    let shown: Value = serde_json::from_slice(&seen.body).expect("JSON");
    assert_eq!(shown["messages"], body["messages"]);
    assert_eq!(
        shown["kv_transfer_params"],
        Value::Null,
        "no client sets it"
    );
    let modes = seen.modes.expect("they are stated");
    let duplex = i32::from(BodySendMode::FullDuplexStreamed);
    assert_eq!(
        (modes.request_body_mode, modes.response_body_mode),
        (duplex, duplex)
    );
    let metadata = seen.metadata.expect("a list of endpoints");
    let hint = &metadata.filter_metadata["envoy.lb.subset_hint"];
    let list = &hint.fields["x-gateway-destination-endpoint-subset"].kind;
    let Some(Kind::ListValue(list)) = list else {
        panic!("{list:?}")
    };
    assert_eq!(list.values.len(), 2);
    let sent = asked(&fleet.engines[1]).pop().expect("it was chosen");
    assert_eq!(sent.body, seen.body, "as it came back");
}

#[tokio::test]
async fn a_body_that_the_picker_rewrites_is_sent_and_the_client_reads_its_own_model() {
    let rewriting = |record: &_, shown: &Shown| {
        let record: &hermes_testkit::scripted_picker::PickerStreamRecord = record;
        if !matches!(shown, Shown::RequestBody(_)) || !record.is_asked {
            return match shown {
                Shown::ResponseHeaders(_) => vec![PickerStep::answer_head(&[])],
                _ => Vec::new(),
            };
        }
        let mut body: Value = serde_json::from_slice(&record.body).expect("JSON");
        body["model"] = "sim".into();
        let order = record.header(ORDER).unwrap_or_default();
        let body = body.to_string();
        let (first, last) = body.as_bytes().split_at(7);
        vec![
            PickerStep::head(&[(DESTINATION, order), (":path", "/v1/chat/completions?x=1")]),
            PickerStep::body(first, false),
            PickerStep::body(last, true),
        ]
    };
    let picker = ScriptedPicker::start(0, rewriting).await.expect("a port");
    let keys = "  rewrites: [{targets: [{model: sim}]}]\n";
    let fleet = fleet(&picker, 1, keys).await;
    let order = fleet.engines[0].addr().to_string();
    let mut body = json!({
        "model": "assistant", "max_tokens": 3,
        "messages": [{"role": "user", "content": "hello"}],
    });
    for stream in [false, true] {
        body["stream"] = stream.into();
        let answer = send(ask(&fleet.url(), &body).header(ORDER, &order)).await;
        let text = answer.text().await.expect("text");
        assert!(text.contains("\"model\":\"assistant\""), "{text}");
        let seen = asked(&fleet.engines[0]).pop().expect("it was sent");
        assert_eq!(seen.json()["model"], "sim");
        assert_eq!(seen.uri.to_string(), "/v1/chat/completions?x=1");
    }
}

#[tokio::test]
async fn a_picker_that_returns_no_body_leaves_it_as_it_was() {
    // As the light picker of the Inference Extension: an answer for each piece, the head's last.
    let light =
        |record: &hermes_testkit::scripted_picker::PickerStreamRecord, shown: &Shown| match shown {
            Shown::RequestBody(_) => {
                let order = record.header(ORDER).unwrap_or_default();
                let head = record
                    .is_asked
                    .then(|| PickerStep::head(&[(DESTINATION, order)]));
                head.into_iter().chain([PickerStep::unchanged()]).collect()
            }
            Shown::ResponseHeaders(_) => vec![PickerStep::answer_head(&[("x-late", "1")])],
            _ => Vec::new(),
        };
    let picker = ScriptedPicker::start(0, light).await.expect("a port");
    let fleet = fleet(&picker, 1, "").await;
    let order = fleet.engines[0].addr().to_string();
    let body = json!({
        "model": "sim", "max_tokens": 1,
        "messages": [{"role": "user", "content": "long ".repeat(60_000)}],
    });
    let answer = send(ask(&fleet.url(), &body).header(ORDER, &order)).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-late"]),
        (200, &"1".parse().expect("a value"))
    );
    let seen = asked(&fleet.engines[0]).pop().expect("it was sent");
    assert_eq!(seen.json()["messages"], body["messages"]);
}

#[tokio::test]
async fn a_plain_service_behind_a_route_is_chosen_for_requests_without_a_body_too() {
    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let picker = ScriptedPicker::start(0, usual).await.expect("a port");
    let (one, two) = (Recorder::start(OK).await, Recorder::start(OK).await);
    let front = Front::start(&format!(
        "pools:\n- {{name: chat, strategy: round-robin, endpoints: ['{}', '{}'], \
         askPicker: {{address: '{}', tls: false}}}}\n\
         routes: [{{name: all, rules: [{{backends: [{{pool: chat}}]}}]}}]\n",
        one.url(),
        two.url(),
        picker.address
    ))
    .await;
    let order = two.url().replace("http://", "");
    for method in ["GET", "POST"] {
        let url = format!("{}/any/path?a=b", front.url());
        let request = client().request(method.parse().expect("a method"), url);
        let request = request
            .header(ORDER, &order)
            .header("host", "models.example");
        assert_eq!(send(request).await.status(), 200);
        let seen = two.take().pop().expect("it was chosen");
        assert!(
            seen.starts_with(&format!("{method} /any/path?a=b ")),
            "{seen}"
        );
        assert!(one.take().is_empty());
        let shown = picker.streams().pop().expect("one");
        assert_eq!(shown.header(":authority"), Some("models.example"));
        assert!(shown.is_asked && shown.body.is_empty());
    }
}

#[tokio::test]
async fn endpoints_are_tried_in_the_order_of_the_list() {
    let picker = ScriptedPicker::start(0, usual).await.expect("a port");
    let fleet = fleet(&picker, 3, "").await;
    let address = |at: usize| fleet.engines[at].addr().to_string();
    fleet.engines[2].stop().await;
    let order = format!("{},{},{}", address(2), address(0), address(1));
    let answer = send(chat(&fleet.url(), false, 1).header(ORDER, &order)).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-served"], address(0).as_str());
    assert_eq!(asked(&fleet.engines[0]).len(), 1);
    let (status, _) =
        json_of(send(chat(&fleet.url(), false, 1).header(ORDER, address(2))).await).await;
    assert_eq!(status, 502, "the only one that the picker named is down");
}
