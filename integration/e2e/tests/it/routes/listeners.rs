//! Ports beside the usual one.

use std::net::TcpListener;

use serde_json::json;
use tokio::net::TcpStream;

use super::{Gateway, TO_BLUE, TO_GREEN};
use crate::client::{eventually, json_of, metric, send};

const ROUTES: &str = "
routes:
- {name: inner, listeners: [inner], rules: [{backends: [{pool: green}]}]}
- {name: usual, rules: [{backends: [{pool: blue}]}]}
";

#[tokio::test]
async fn a_listener_has_routes_of_its_own() {
    let listeners = "listeners: [{name: inner, address: '127.0.0.1:0'}, {name: strict, address: '127.0.0.2:0', routesOnly: true}, {name: open, address: '127.0.0.3:0'}]";
    let gateway = Gateway::start(&format!("{ROUTES}{listeners}")).await;
    let inner = gateway.port_of("inner").await;
    let get = |address: &str, path: &str| gateway.http.get(format!("http://{address}{path}"));
    assert_eq!(gateway.sent(get(&inner, "/x")).await, TO_GREEN);
    assert_eq!(gateway.sent(gateway.get("/x")).await, TO_BLUE);
    let (strict, open) = (
        gateway.port_of("strict").await,
        gateway.port_of("open").await,
    );
    let (status, error) = json_of(send(get(&strict, "/v1/models")).await).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (404, &"route_not_found".into())
    );
    let (status, models) = json_of(send(get(&open, "/v1/models")).await).await;
    assert_eq!((status, &models["data"][0]["id"]), (200, &json!("m")));
    let admin = gateway.proxy.admin_url();
    assert_eq!(
        metric(&admin, "hermes_listener_ports{state=\"open\"}").await,
        3.0
    );
}

#[tokio::test]
async fn a_listener_is_opened_and_closed_while_the_proxy_runs() {
    let gateway = Gateway::start("").await;
    gateway
        .change(&format!(
            "{ROUTES}listeners: [{{name: inner, address: '127.0.0.1:0'}}]"
        ))
        .await;
    let inner = gateway.port_of("inner").await;
    let url = format!("http://{inner}/x");
    assert_eq!(gateway.sent(gateway.http.get(&url)).await, TO_GREEN);
    gateway.change("").await;
    eventually("the port is closed", || async {
        TcpStream::connect(&inner).await.is_err()
    })
    .await;
    // A connection that was open before announces its end with the next answer.
    let kept = send(gateway.http.get(&url)).await;
    assert_eq!(kept.status(), 404, "its listener is gone");
    assert_eq!(
        kept.headers()
            .get("connection")
            .map(reqwest::header::HeaderValue::as_bytes),
        Some(&b"close"[..])
    );
}

#[tokio::test]
async fn a_port_that_is_taken_is_reported_and_opened_when_it_is_free() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let gateway = Gateway::start(&format!(
        "{ROUTES}listeners: [{{name: inner, address: '{address}'}}]"
    ))
    .await;
    let admin = gateway.proxy.admin_url();
    eventually("the failure is reported", || async {
        metric(&admin, "hermes_listener_ports{state=\"failed\"}").await == 1.0
    })
    .await;
    let port = gateway.snapshot().await["ports"][0].clone();
    assert_eq!(
        (&port["address"], &port["bound"]),
        (&json!(address.to_string()), &json!(null))
    );
    assert!(
        port["error"]
            .as_str()
            .is_some_and(|error| error.contains("in use")),
        "{port}"
    );
    assert!(metric(&admin, "hermes_listener_bind_failures_total").await >= 1.0);
    assert_eq!(
        gateway.sent(gateway.get("/x")).await,
        TO_BLUE,
        "the rest is served"
    );
    drop(taken);
    assert_eq!(gateway.port_of("inner").await, address.to_string());
    let url = format!("http://{address}/x");
    assert_eq!(gateway.sent(gateway.http.get(url)).await, TO_GREEN);
}
