//! Which endpoints a gateway is given, and what it is answered instead.

use std::{collections::HashMap, num::NonZeroUsize};

use hermes_bench::fleet::Scene;
use hermes_data_plane::app::PickerOptions;
use hermes_proto::{Kind as ValueKind, Struct, Value, ext_proc::Metadata};
use serde_json::json;

use super::{
    ended,
    gateway::{Gateway, Picked, chat, value},
    start, with_a_door,
};
use crate::client::{eventually, metric};

/// Metadata with one text.
fn metadata(namespace: &str, key: &str, text: &str) -> Metadata {
    let value = Value {
        kind: Some(ValueKind::StringValue(text.to_owned())),
    };
    let fields = [(key.to_owned(), value)].into_iter().collect();
    Metadata {
        filter_metadata: HashMap::from([(namespace.to_owned(), Struct { fields })]),
    }
}

fn only(addresses: &str) -> Option<Metadata> {
    let key = "x-gateway-destination-endpoint-subset";
    Some(metadata("envoy.lb.subset_hint", key, addresses))
}

#[tokio::test]
async fn a_request_goes_only_to_endpoints_that_the_gateway_names() {
    for strategy in ["kv-aware", "round-robin"] {
        let (fleet, gateway) = start(Scene::of(3, strategy)).await;
        let named = fleet.engines[1].addr().to_string();
        for _ in 0..4 {
            let path = "/v1/chat/completions";
            let mut stream = gateway.begin_within("POST", path, true, only(&named)).await;
            stream
                .show_body(chat(false, 1).to_string().as_bytes())
                .await;
            let destination = stream.picked().await.endpoint();
            assert_eq!(destination.endpoints.join(","), named, "{strategy}");
        }
    }
}

#[tokio::test]
async fn a_list_without_an_endpoint_of_the_pool_is_a_503_that_says_so() {
    let (fleet, gateway) = start(Scene::of(2, "kv-aware")).await;
    let path = "/v1/chat/completions";
    let mut stream = gateway
        .begin_within("POST", path, true, only("10.9.9.9:8000"))
        .await;
    stream
        .show_body(chat(false, 1).to_string().as_bytes())
        .await;
    let reason = "x-llm-d-request-dropped-reason";
    let (status, body, reason) = stream.picked().await.answer(reason);
    assert_eq!(
        (status, reason.as_deref()),
        (503, Some("rejected-no-endpoints"))
    );
    assert_eq!(body["error"]["code"], "no_healthy_upstream");
    let admin = fleet.proxies[0].admin_url();
    eventually("it was a request that failed", || async {
        ended(&admin, "failed").await == 1.0
    })
    .await;
}

#[tokio::test]
async fn what_is_sent_to_an_endpoint_is_the_clients_bytes_without_control_fields() {
    let (_fleet, gateway) = start(Scene::of(1, "kv-aware")).await;
    let mut body = chat(false, 1);
    let clean = body.to_string();
    body["kv_transfer_params"] = json!({"remote_host": "10.6.6.6"});
    let (_stream, picked) = gateway.ask(&body).await;
    let destination = picked.endpoint();
    assert_eq!(String::from_utf8_lossy(&destination.body), clean);
    let length = value(&destination.head, "content-length");
    assert_eq!(length, Some(clean.len().to_string()));
}

#[tokio::test]
async fn ten_megabytes_come_back_whole() {
    let (_fleet, gateway) = start(Scene::of(1, "kv-aware")).await;
    let content = "0123456789abcdef".repeat(10 << 16);
    let body = json!({"model": "sim", "messages": [{"role": "user", "content": content}]});
    let mut stream = gateway.begin("POST", "/v1/chat/completions", true).await;
    let sent = body.to_string();
    let shown = sent.as_bytes();
    stream.show_body(shown).await;
    let destination = stream.picked().await.endpoint();
    assert!(
        destination.body == shown,
        "{} bytes",
        destination.body.len()
    );
}

#[tokio::test]
async fn errors_have_the_shape_of_their_api_and_name_what_is_near() {
    let (fleet, gateway) = start(Scene::of(1, "kv-aware")).await;
    let unknown = json!({"model": "simm", "messages": []});
    eventually("the models are known", || async {
        let (_stream, picked) = gateway.ask(&unknown).await;
        // Until then, a pool without models takes any name.
        let Picked::Answer(answer) = picked else {
            return false;
        };
        let (status, body, _) = Picked::Answer(answer).answer("content-type");
        status == 404 && body["error"]["message"].to_string().contains("mean sim?")
    })
    .await;
    let mut stream = gateway.begin("POST", "/v1/messages", true).await;
    stream.show_body(b"[").await;
    let (status, body, kind) = stream.picked().await.answer("content-type");
    assert_eq!((status, kind.as_deref()), (400, Some("application/json")));
    assert_eq!(body["type"], "error", "Anthropic's shape");

    let mut models = gateway.begin("GET", "/v1/models", false).await;
    let (status, body, _) = models.picked().await.answer("content-type");
    assert_eq!((status, &body["data"][0]["id"]), (200, &json!("sim")));
    drop(fleet);
}

#[tokio::test]
async fn one_request_too_many_is_a_429_with_retry_after() {
    let scene = Scene {
        top: "limits: {maxConcurrent: 1}\n".into(),
        ..Scene::of(1, "kv-aware")
    };
    let (_fleet, gateway) = start(scene).await;
    let (open, picked) = gateway.ask(&chat(false, 1)).await;
    picked.endpoint();
    let (_stream, picked) = gateway.ask(&chat(false, 1)).await;
    let (status, _, after) = picked.answer("retry-after");
    assert_eq!((status, after.as_deref()), (429, Some("1")));
    drop(open);
    eventually("there is room again", || async {
        let (_stream, picked) = gateway.ask(&chat(false, 1)).await;
        matches!(picked, Picked::Endpoint(_))
    })
    .await;
}

#[tokio::test]
async fn without_a_control_plane_the_proxy_chooses_by_itself() {
    let (mut fleet, gateway) = start(Scene::of(2, "kv-aware")).await;
    assert_eq!(gateway.serve(&chat(false, 1)).await.0, 200);
    fleet.control_planes.clear();
    for _ in 0..3 {
        assert_eq!(gateway.serve(&chat(false, 1)).await.0, 200);
    }
}

#[tokio::test]
async fn a_request_counts_at_the_endpoint_that_the_gateway_went_on_to() {
    let scene = with_a_door(Scene::of(3, "round-robin"));
    let plain = PickerOptions::plain(([127, 0, 0, 1], 0).into());
    let scene = Scene {
        picker: Some(PickerOptions {
            endpoints: NonZeroUsize::new(2).expect("not zero"),
            ..plain
        }),
        ..scene
    };
    let fleet = scene.start().await.expect("starts");
    let gateway = Gateway::connect(fleet.proxies[0].bound.picker.expect("a door")).await;
    let (mut stream, picked) = gateway.ask(&chat(false, 3)).await;
    let destination = picked.endpoint();
    assert_eq!(destination.endpoints.len(), 2);
    assert_ne!(destination.endpoints[0], destination.endpoints[1]);
    let answer = destination.send(1).await;
    let key = "x-gateway-destination-endpoint-served";
    let served = metadata("envoy.lb", key, &destination.endpoints[1]);
    stream.pass(answer, Some(served)).await;
    let admin = fleet.proxies[0].admin_url();
    let attempts =
        |outcome| format!("hermes_attempts_total{{pool=\"chat\",outcome=\"{outcome}\"}}");
    eventually("the request has ended", || async {
        ended(&admin, "ok").await == 1.0
    })
    .await;
    assert_eq!(metric(&admin, &attempts("unreachable")).await, 1.0);
    assert_eq!(metric(&admin, &attempts("answered")).await, 1.0);
    assert_eq!(
        metric(&admin, "hermes_retries_total{pool=\"chat\"}").await,
        1.0
    );
}
