//! Routes: which pool a request goes to by host, path, method and headers, and what is changed on
//! the way.

mod filters;
mod listeners;
mod secured;
mod timeouts;

use std::{fs, path::PathBuf};

use hermes_bench::fleet::{self, Plane};
use hermes_control_plane::app::{ConfigSource, ControlPlane};
use hermes_data_plane::app::{DataPlane, DataPlaneOptions};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{
    client::{client, eventually, json_of, metric, send},
    recorder::{LONG, Recorder},
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-engine: 1\r\nx-inner: 1\r\n\r\n{}";

/// A proxy in front of two plain services, whose configuration is a file.
struct Gateway {
    blue: Recorder,
    green: Recorder,
    proxy: Plane<DataPlane>,
    file: PathBuf,
    http: Client,
    _control: Plane<ControlPlane>,
    _folder: TempDir,
}

impl Gateway {
    /// `ways` are the lists `routes` and `listeners`.
    async fn start(ways: &str) -> Self {
        Self::with(ways, None).await
    }

    async fn with(ways: &str, listener_certificates: Option<PathBuf>) -> Self {
        let (blue, green) = (Recorder::start(OK).await, Recorder::start(OK).await);
        let folder = TempDir::new().expect("a folder");
        let file = folder.path().join("hermes.yaml");
        fs::write(&file, yaml(&blue, &green, ways)).expect("written");
        let config = ConfigSource::File(file.clone());
        let control = fleet::control_plane(config).await.expect("starts");
        let options = DataPlaneOptions {
            listener_certificates,
            ..DataPlaneOptions::local(vec![control.bound.grpc.to_string()])
        };
        let proxy = fleet::proxy_with(options).await.expect("starts");
        let ready = timeout(LONG, proxy.bound.readiness.ready()).await;
        ready.expect("the proxy has a snapshot");
        Self {
            blue,
            green,
            proxy,
            file,
            http: client(),
            _control: control,
            _folder: folder,
        }
    }

    /// Changes the file, and waits until the proxy has other routes or listeners.
    async fn change(&self, ways: &str) {
        let ways_of = |state: &Value| {
            let snapshot = &state["snapshot"];
            (snapshot["routes"].clone(), snapshot["listeners"].clone())
        };
        let before = ways_of(&self.snapshot().await);
        fs::write(&self.file, yaml(&self.blue, &self.green, ways)).expect("written");
        eventually("the proxy has the new file", || async {
            ways_of(&self.snapshot().await) != before
        })
        .await;
    }

    async fn snapshot(&self) -> Value {
        self.page("/debug/snapshot").await
    }

    async fn page(&self, path: &str) -> Value {
        let request = self.http.get(format!("{}{path}", self.proxy.admin_url()));
        json_of(send(request).await).await.1
    }

    /// Where a listener's port is open, as soon as it is.
    async fn port_of(&self, listener: &str) -> String {
        let bound = || async {
            let state = self.snapshot().await;
            let ports = state["ports"].as_array().cloned().unwrap_or_default();
            let has_it = |port: &&Value| {
                let names = port["listeners"].as_array();
                names.is_some_and(|names| names.contains(&json!(listener)))
            };
            let port = ports.iter().find(has_it)?;
            port["bound"].as_str().map(str::to_owned)
        };
        eventually("the listener is open", || async { bound().await.is_some() }).await;
        bound().await.expect("it is open")
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.proxy.url()))
    }

    /// A request for a host.
    fn ask(&self, host: &str, path: &str) -> RequestBuilder {
        self.get(path).header("host", host)
    }

    /// The status of the answer, and how many requests each service got since the last call.
    async fn sent(&self, request: RequestBuilder) -> (u16, usize, usize) {
        let status = send(request).await.status().as_u16();
        (status, self.blue.take().len(), self.green.take().len())
    }
}

fn yaml(blue: &Recorder, green: &Recorder, ways: &str) -> String {
    format!(
        "pools:\n- {{name: blue, models: [m], strategy: round-robin, endpoints: ['{}']}}\n\
         - {{name: green, strategy: round-robin, endpoints: ['{}']}}\n{ways}",
        blue.url(),
        green.url()
    )
}

const TO_BLUE: (u16, usize, usize) = (200, 1, 0);
const TO_GREEN: (u16, usize, usize) = (200, 0, 1);

#[tokio::test]
async fn any_path_and_method_reaches_a_plain_service_behind_a_route() {
    let gateway = Gateway::start(
        "routes: [{name: all, rules: [{matches: [{path: {prefix: /green}}], backends: [{pool: green}]}, {backends: [{pool: blue}]}]}]",
    )
    .await;
    assert_eq!(gateway.sent(gateway.get("/")).await, TO_BLUE);
    assert_eq!(gateway.sent(gateway.get("/green")).await, TO_GREEN);
    assert_eq!(gateway.sent(gateway.get("/greens")).await, TO_BLUE);
    let url = format!("{}/green/a?b=c", gateway.proxy.url());
    let put = gateway.http.put(url).body("any \u{1} bytes");
    assert_eq!(send(put).await.status(), 200);
    let seen = gateway.green.take().remove(0);
    assert!(seen.starts_with("PUT /green/a?b=c HTTP/1.1\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\nany \u{1} bytes"), "{seen}");
    let host = gateway.proxy.bound.listen.to_string();
    let seen_host = format!("\r\nhost: {host}\r\n");
    assert!(seen.to_lowercase().contains(&seen_host), "{seen}");
}

#[tokio::test]
async fn an_inference_api_behind_a_route_needs_no_model_and_refuses_one_that_its_pool_lacks() {
    let gateway = Gateway::start(
        "routes: [{name: all, rules: [{matches: [{path: {prefix: /green}}], rewrite: {replacePrefix: /}, backends: [{pool: green}]}, {backends: [{pool: blue}]}]}]",
    )
    .await;
    let chat = |prefix: &str, body: &'static str| {
        let url = format!("{}{prefix}/v1/chat/completions", gateway.proxy.url());
        gateway.http.post(url).body(body)
    };
    assert_eq!(gateway.sent(chat("", r#"{"messages":[]}"#)).await, TO_BLUE);
    assert_eq!(gateway.sent(chat("", r#"{"model":"m"}"#)).await, TO_BLUE);
    assert_eq!(
        gateway.sent(chat("/green", r#"{"model":"any"}"#)).await,
        TO_GREEN
    );
    let (status, error) = json_of(send(chat("", r#"{"model":"other"}"#)).await).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (404, &"model_not_found".into())
    );
    let stripped = chat("", r#"{"model":"m","kv_transfer_params":{}}"#);
    assert_eq!(send(stripped).await.status(), 200);
    assert!(gateway.blue.take().remove(0).ends_with(r#"{"model":"m"}"#));

    let (_, models) = json_of(send(gateway.get("/v1/models")).await).await;
    assert_eq!(
        models["data"][0]["id"], "m",
        "the proxy answers for an engine"
    );
    let plain = gateway.get("/green/v1/models");
    assert_eq!(
        send(plain).await.status(),
        404,
        "a service answers for itself"
    );
}

#[tokio::test]
async fn backends_get_the_shares_of_their_weights() {
    const REQUESTS: usize = 400;
    let gateway = Gateway::start(
        "routes: [{name: canary, rules: [{backends: [{pool: blue, weight: 70}, {pool: green, weight: 30}, {pool: green, weight: 0}]}]}]",
    )
    .await;
    for _ in 0..REQUESTS {
        assert_eq!(send(gateway.get("/x")).await.status(), 200);
    }
    let share = gateway.blue.take().len() as f64 / REQUESTS as f64;
    // Four and a half standard deviations.
    assert!((share - 0.7).abs() < 0.103, "{share}");
    let admin = gateway.proxy.admin_url();
    let series = "hermes_route_requests_total{route=\"canary\",result=\"forwarded\"}";
    assert_eq!(metric(&admin, series).await, REQUESTS as f64);
}

#[tokio::test]
async fn the_most_specific_host_and_path_decide_and_what_nothing_takes_is_404() {
    let gateway = Gateway::start(
        "
routes:
- name: wide
  hostnames: ['*.example.com']
  rules: [{matches: [{path: {prefix: /a}}], backends: [{pool: blue}]}]
- name: narrow
  hostnames: [api.example.com]
  rules:
  - {matches: [{path: {prefix: /a/b}, headers: [{name: x-team, exact: green}]}], backends: [{pool: green}]}
  - {matches: [{path: {exact: /none}}], backends: [{pool: green, weight: 0}]}
",
    )
    .await;
    let ask = |host: &str, path: &str| gateway.ask(host, path);
    assert_eq!(gateway.sent(ask("x.example.com", "/a/b")).await, TO_BLUE);
    let team = ask("API.example.com:8000", "/a/b").header("X-Team", "green");
    assert_eq!(gateway.sent(team).await, TO_GREEN);
    assert_eq!(gateway.sent(ask("api.example.com", "/a/b")).await, TO_BLUE);
    for (host, path) in [
        ("example.com", "/a"),
        ("x.example.com", "/ab"),
        ("x.example.com", "/"),
    ] {
        let (status, error) = json_of(send(ask(host, path)).await).await;
        assert_eq!(
            (status, &error["error"]["code"]),
            (404, &"route_not_found".into()),
            "{host}{path}"
        );
    }
    let (status, error) = json_of(send(ask("api.example.com", "/none")).await).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (500, &"invalid_backend".into())
    );
    let explained = gateway
        .page("/debug/route?host=x.example.com&path=/a/c")
        .await;
    assert_eq!(
        (&explained["route"], &explained["rule_position"]),
        (&json!("wide"), &json!(0))
    );
}

#[tokio::test]
async fn a_path_that_a_server_may_resolve_elsewhere_is_not_forwarded() {
    let gateway = Gateway::start(
        "routes: [{name: open, rules: [{matches: [{path: {prefix: /open}}], backends: [{pool: blue}]}]}]",
    )
    .await;
    for path in [
        "/open/../secret",
        "/open/%2e%2e/secret",
        "/open/..%2fsecret",
    ] {
        let mut stream = tokio::net::TcpStream::connect(gateway.proxy.bound.listen)
            .await
            .expect("listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        let mut answer = String::new();
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        stream.write_all(request.as_bytes()).await.expect("is read");
        stream.read_to_string(&mut answer).await.expect("text");
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
    assert_eq!(gateway.blue.take().len(), 0);
}

#[tokio::test]
async fn routes_change_while_the_proxy_runs_and_a_wrong_file_changes_nothing() {
    let to =
        |pool: &str| format!("routes: [{{name: all, rules: [{{backends: [{{pool: {pool}}}]}}]}}]");
    let gateway = Gateway::start(&to("blue")).await;
    assert_eq!(gateway.sent(gateway.get("/x")).await, TO_BLUE);
    gateway.change(&to("green")).await;
    assert_eq!(gateway.sent(gateway.get("/x")).await, TO_GREEN);
    let wrong = yaml(&gateway.blue, &gateway.green, &to("gren"));
    fs::write(&gateway.file, wrong).expect("written");
    let admin = format!(
        "http://{}",
        gateway._control.bound.admin.expect("it has one")
    );
    eventually("the file is refused", || async {
        metric(&admin, "hermes_control_plane_config_last_reload_successful").await == 0.0
    })
    .await;
    assert_eq!(gateway.sent(gateway.get("/x")).await, TO_GREEN);
    gateway.change("").await;
    let (status, error) = json_of(send(gateway.get("/x")).await).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (404, &"unknown_url".into()),
        "without routes the model decides again"
    );
}
