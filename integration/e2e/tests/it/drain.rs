//! Draining a proxy: requests in flight finish, new connections are refused, and a second signal
//! forces the end.

use hermes_bench::fleet::{Fleet, Scene};
use hermes_engine_sim::EngineConfig;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::client::{chat, client, eventually, pieces, send};

async fn slow_fleet() -> Fleet {
    let scene = Scene {
        engines: vec![EngineConfig::default()],
        ..Scene::of(0, "round-robin")
    };
    scene.start().await.expect("starts")
}

#[tokio::test]
async fn streams_finish_and_new_connections_are_refused() {
    let mut fleet = slow_fleet().await;
    let proxy = fleet.proxies.pop().expect("one");
    let (address, admin) = (proxy.bound.listen, proxy.admin_url());
    let response = send(chat(&proxy.url(), true, 60)).await;
    proxy.terminate();
    eventually("new connections are refused", || async {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    let ready = client()
        .get(format!("{admin}/readyz"))
        .send()
        .await
        .expect("the admin port answers to the end");
    assert_eq!(ready.status(), 503);
    let (pieces, whole) = pieces(response).await;
    assert!(whole && pieces.concat().ends_with("data: [DONE]\n\n"));
    proxy.stop().await;
}

#[tokio::test]
async fn a_second_request_forces_the_end() {
    let mut fleet = slow_fleet().await;
    let proxy = fleet.proxies.pop().expect("one");
    let response = send(chat(&proxy.url(), true, 100_000)).await;
    proxy.terminate();
    proxy.terminate();
    let (_, whole) = pieces(response).await;
    assert!(!whole);
    eventually("the engine's work is cancelled", || async {
        fleet.engines[0].stats().running == 0
    })
    .await;
}

#[tokio::test]
async fn a_kept_connection_gets_connection_close_in_a_response_before_it_is_closed() {
    let mut fleet = slow_fleet().await;
    let proxy = fleet.proxies.pop().expect("one");
    let stream = TcpStream::connect(proxy.bound.listen)
        .await
        .expect("listens");
    let (mut connection, driver) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .expect("connects");
    let _driver = AbortOnDropHandle::new(tokio::spawn(driver));
    let mut models = async || {
        let request = Request::get("/v1/models")
            .header("host", "proxy")
            .body(Full::default())
            .expect("a request");
        let response = connection
            .send_request(request)
            .await
            .expect("an answer on the same connection");
        let closes = response
            .headers()
            .get("connection")
            .is_some_and(|value| value == "close");
        response.into_body().collect().await.expect("a whole body");
        closes
    };
    assert!(!models().await);
    proxy.terminate();
    let address = proxy.bound.listen;
    eventually("the proxy drains", || async {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    assert!(models().await, "the answer says that it is the last one");
    proxy.stop().await;
}

#[tokio::test]
async fn an_idle_proxy_ends_soon() {
    let mut fleet = slow_fleet().await;
    let proxy = fleet.proxies.pop().expect("one");
    assert_eq!(send(chat(&proxy.url(), false, 1)).await.status(), 200);
    proxy.stop().await;
}

#[tokio::test]
async fn a_taken_port_fails_the_start_and_names_the_flag() {
    let fleet = Scene::default().start().await.expect("starts");
    let taken = fleet.proxies[0].bound.listen;
    let options = hermes_data_plane::app::DataPlaneOptions {
        listen: taken,
        admin: None,
        ..hermes_data_plane::app::DataPlaneOptions::local(vec![
            fleet.control_planes[0].bound.grpc.to_string(),
        ])
    };
    let drain = hermes_runtime::shutdown::Drain::default();
    let error = hermes_data_plane::app::start(options, drain).await;
    let message = error.expect_err("the port is taken").to_string();
    assert!(
        message.contains("--listen") && message.contains(&taken.to_string()),
        "{message}"
    );
}

#[tokio::test]
async fn a_proxy_with_threads_of_its_own_serves_streams_and_drains() {
    let scene = Scene {
        engines: vec![EngineConfig::default(); 2],
        ..Scene::of(0, "kv-aware")
    };
    let mut fleet = scene.start().await.expect("starts");
    let url = fleet.url();
    // Many connections, so that the kernel gives some to each thread.
    let answers = futures::future::join_all((0..16).map(|_| send(chat(&url, true, 5)))).await;
    for answer in answers {
        let (pieces, whole) = pieces(answer).await;
        assert!(whole && pieces.concat().ends_with("data: [DONE]\n\n"));
    }
    let proxy = fleet.proxies.pop().expect("one");
    let last = send(chat(&url, true, 40)).await;
    proxy.terminate();
    let address = proxy.bound.listen;
    eventually("new connections are refused", || async {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    assert!(
        pieces(last).await.1,
        "a stream that had begun ends as a whole"
    );
    proxy.stop().await;
    drop(fleet);
}
