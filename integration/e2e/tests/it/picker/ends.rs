//! How streams of gateways end, and what is left of them: nothing.

use hermes_bench::fleet::Scene;
use hermes_proto::{
    ext_proc::{HttpBody, processing_request::Request as Kind},
    health::{
        HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
    },
};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

use super::{ended, gateway::chat, slow, start};
use crate::client::{eventually, metric};

/// The number of open requests and of open streams.
async fn open(admin: &str) -> (f64, f64) {
    (
        metric(admin, "hermes_requests_in_flight{pool=\"chat\"}").await,
        metric(admin, "hermes_picker_open_streams").await,
    )
}

#[tokio::test]
async fn a_stream_that_is_reset_at_any_stage_leaves_nothing_behind() {
    let (fleet, gateway) = start(slow(1)).await;
    let admin = fleet.proxies[0].admin_url();
    for stage in ["head", "body", "destination", "answer", "piece"] {
        let mut stream = gateway.begin("POST", "/v1/chat/completions", true).await;
        let body = chat(true, 1_000).to_string();
        if stage == "body" {
            stream
                .send(Kind::RequestBody(HttpBody {
                    body: body.clone().into_bytes().into(),
                    end_of_stream: false,
                }))
                .await;
        }
        if !matches!(stage, "head" | "body") {
            stream.show_body(body.as_bytes()).await;
            let destination = stream.picked().await.endpoint();
            if stage != "destination" {
                let answer = destination.send(0).await;
                stream.show_head(&answer, None).await;
                if stage == "piece" {
                    stream.show_piece("data: {}\n\n".into(), false).await;
                }
            }
        }
        drop(stream);
        eventually("nothing is open", || async {
            open(&admin).await == (0.0, 0.0)
        })
        .await;
    }
    assert_eq!(ended(&admin, "cancelled").await, 3.0);
    let left = metric(&admin, "hermes_picker_streams_total{end=\"left\"}").await;
    assert_eq!(left, 5.0);
}

async fn health(channel: Channel, service: &str) -> Option<ServingStatus> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = HealthClient::new(channel).check(request).await.ok()?;
    Some(answer.into_inner().status())
}

#[tokio::test]
async fn a_draining_picker_serves_until_gateways_can_have_noticed_and_finishes_open_streams() {
    let (mut fleet, gateway) = start(slow(1)).await;
    let proxy = fleet.proxies.pop().expect("one");
    let address = proxy.bound.picker.expect("a door");
    let channel = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let channel = channel.connect().await.expect("it listens");
    for service in ["", "readiness", "liveness", "inference-extension"] {
        let status = health(channel.clone(), service).await;
        assert_eq!(status, Some(ServingStatus::Serving), "{service}");
    }
    assert_eq!(health(channel.clone(), "unknown").await, None);

    let (mut stream, picked) = gateway.ask(&chat(false, 10)).await;
    let answer = picked.endpoint().send(0).await;
    proxy.terminate();
    let is_failing = async || {
        let status = health(channel.clone(), "readiness").await;
        status == Some(ServingStatus::NotServing)
    };
    eventually("its health checks fail", is_failing).await;
    let (late, picked) = gateway.ask(&chat(false, 1)).await;
    picked.endpoint();
    drop(late);
    eventually("new connections are refused", || async {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    let passed = stream.pass(answer, None).await;
    assert!(passed.contains("\"completion_tokens\":10"), "{passed}");
    drop((stream, gateway));
    proxy.stop().await;
}

#[tokio::test]
async fn pickers_share_what_the_control_plane_knows() {
    let scene = Scene {
        proxies: 2,
        ..slow(4)
    };
    let (mut fleet, first) = start(scene).await;
    let door = fleet.proxies[1].bound.picker.expect("a door");
    let second = super::Gateway::connect(door).await;
    let mut question = chat(false, 1);
    question["messages"][0]["content"] = "what is shared between pickers? ".repeat(80).into();
    assert_eq!(first.serve(&question).await.0, 200);
    drop(fleet.proxies.remove(0));
    for _ in 0..3 {
        assert_eq!(second.serve(&question).await.0, 200);
    }
    let served = fleet.engines.iter().map(|engine| engine.stats().requests);
    assert_eq!(
        served.max(),
        Some(4),
        "the other picker knew where the prompt is"
    );
}
