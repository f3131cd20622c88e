//! The pool of a request, and the model that its endpoints are asked for.

use hermes_bench::fleet::{Scene, instant};
use hermes_engine_sim::Engine;
use serde_json::Value;
use tonic::transport::Endpoint;

use super::{
    Gateway,
    gateway::{Picked, chat},
    start,
};
use crate::client::eventually;

#[tokio::test]
async fn of_pools_that_serve_one_model_the_one_is_meant_whose_picker_was_asked() {
    let other = Engine::start(instant()).await.expect("an engine starts");
    let pool = format!(
        "  strategy: round-robin\n  pickers: [serving/first-epp:9002]\n\
         - name: other\n  endpoints: ['{}']\n  strategy: round-robin\n  pickers: [serving/other-epp:9002]\n",
        other.url()
    );
    let scene = Scene {
        pool,
        ..Scene::of(1, "round-robin")
    };
    let (fleet, _) = start(scene).await;
    let door = fleet.proxies[0].bound.picker.expect("a door");
    let first = fleet.engines[0].addr().to_string();
    for (authority, expected) in [
        ("first-epp.serving:9002", first.clone()),
        (
            "other-epp.serving.svc.cluster.local:9002",
            other.addr().to_string(),
        ),
        ("unknown:9002", first),
    ] {
        let endpoint = Endpoint::from_shared(format!("http://{door}")).expect("an address");
        let origin = format!("http://{authority}").parse().expect("an origin");
        let channel = endpoint.origin(origin).connect().await.expect("it listens");
        let gateway = Gateway::over(channel);
        eventually("the pool of this picker is chosen", || async {
            let (_stream, picked) = gateway.ask(&chat(false, 1)).await;
            match picked {
                Picked::Endpoint(destination) => destination.endpoints.join(",") == expected,
                Picked::Answer(_) => false,
            }
        })
        .await;
    }
}

#[tokio::test]
async fn endpoints_are_asked_for_the_rewritten_model_and_clients_read_their_own() {
    let scene = Scene {
        pool: "  strategy: kv-aware\n  scoreDeadline: 5s\n  rewrites:\n  \
               - {model: assistant, targets: [{model: sim}]}\n"
            .into(),
        ..Scene::of(1, "kv-aware")
    };
    let (_fleet, gateway) = start(scene).await;
    for stream in [false, true] {
        let mut body = chat(stream, 3);
        body["model"] = "assistant".into();
        let (_stream, picked) = gateway.ask(&body).await;
        let sent: Value = serde_json::from_slice(&picked.endpoint().body).expect("JSON");
        assert_eq!(sent["model"], "sim");
        let (status, answer) = gateway.serve(&body).await;
        assert_eq!(status, 200);
        assert!(answer.contains("\"model\":\"assistant\""), "{answer}");
        assert!(!answer.contains("\"model\":\"sim\""), "{answer}");
    }
}
