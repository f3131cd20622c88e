//! Certificates that are refused, and servers that never finish a handshake.

use tokio::net::TcpListener;

use super::{Planes, engine, front::TlsFront};
use crate::{
    client::{chat, client, eventually, send},
    tls::authority::{Authority, Signed},
};

/// A certificate that none of the planes may accept, and why.
fn faulty(authority: &Authority) -> [(&'static str, Signed); 3] {
    let wrong_name = authority.sign(&["other.test", "127.0.0.2"], 2090);
    [
        ("of another authority", Authority::new().local()),
        ("for another name", wrong_name),
        ("expired", authority.sign(&["127.0.0.1"], 2021)),
    ]
}

const REFUSED: &str = "hermes_endpoint_connection_failures_total{reason=\"certificate\"}";

#[tokio::test]
async fn requests_go_to_another_endpoint_when_a_certificate_is_refused() {
    let (engine, authority) = (engine().await, Authority::new());
    for (why, certificate) in faulty(&authority) {
        let front = TlsFront::start(&engine, &certificate).await;
        let pool = format!(
            "endpoints: ['{}', '{}'], strategy: round-robin, tls: {{caFile: CA}}",
            front.url(),
            engine.url()
        );
        let planes = Planes::start(&authority, &pool).await;
        for _ in 0..4 {
            let status = send(chat(&planes.url(), false, 1)).await.status();
            assert_eq!(status, 200, "{why}");
        }
        assert!(!planes.is_scraped(&front.url()).await, "{why}");
    }
}

#[tokio::test]
async fn a_refused_certificate_is_an_unreachable_endpoint_and_never_plain_text() {
    let (engine, authority) = (engine().await, Authority::new());
    for (why, certificate) in faulty(&authority) {
        let front = TlsFront::start(&engine, &certificate).await;
        let pool = format!("endpoints: ['{}'], tls: {{caFile: CA}}", front.url());
        let planes = Planes::start(&authority, &pool).await;
        assert_eq!(
            send(chat(&planes.url(), false, 1)).await.status(),
            502,
            "{why}"
        );
        assert!(planes.count(REFUSED).await > 0.0, "{why}");
        let unreachable = "hermes_attempts_total{pool=\"chat\",outcome=\"unreachable\"}";
        assert!(planes.count(unreachable).await > 0.0, "{why}");
    }
    assert_eq!(engine.stats().requests, 0);
}

#[tokio::test]
async fn a_server_that_never_finishes_the_handshake_costs_the_connect_timeout() {
    let (engine, authority) = (engine().await, Authority::new());
    // The backlog accepts, and no one reads.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let pool = format!(
        "endpoints: ['https://{}', '{}'], strategy: round-robin, timeouts: {{connect: 100ms}}, \
         tls: {{caFile: CA}}",
        silent.local_addr().expect("bound"),
        engine.url()
    );
    let planes = Planes::start(&authority, &pool).await;
    let late = "hermes_endpoint_connection_failures_total{reason=\"timeout\"}";
    eventually("the silent endpoint was tried", || async {
        assert_eq!(send(chat(&planes.url(), false, 1)).await.status(), 200);
        planes.count(late).await > 0.0
    })
    .await;
}

#[tokio::test]
async fn an_https_address_of_a_plain_server_is_refused() {
    let (engine, authority) = (engine().await, Authority::new());
    let url = engine.url().replace("http://", "https://");
    let pool = format!("endpoints: ['{url}'], tls: {{caFile: CA}}");
    let planes = Planes::start(&authority, &pool).await;
    assert_eq!(send(chat(&planes.url(), false, 1)).await.status(), 502);
    let failed = "hermes_endpoint_connection_failures_total{reason=\"tls\"}";
    assert!(planes.count(failed).await > 0.0);
}

#[tokio::test]
async fn the_authorities_of_the_machine_do_not_include_a_private_one() {
    let (engine, authority) = (engine().await, Authority::new());
    let front = TlsFront::start(&engine, &authority.local()).await;
    let planes = Planes::start(&authority, &format!("endpoints: ['{}']", front.url())).await;
    let response = client()
        .post(format!("{}/v1/chat/completions", planes.url()))
        .body(r#"{"model": "sim", "messages": []}"#);
    assert_eq!(send(response).await.status(), 502);
}
