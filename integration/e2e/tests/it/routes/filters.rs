//! What rules change in requests and responses.

use reqwest::redirect;

use super::{Gateway, TO_BLUE};
use crate::client::{eventually, metric, send};

#[tokio::test]
async fn headers_of_requests_and_responses_are_edited() {
    let gateway = Gateway::start(
        "
routes:
- name: edits
  rules:
  - requestHeaders: {set: [{name: X-Set, value: new}], add: [{name: x-add, value: more}], remove: [x-gone]}
    responseHeaders: {set: [{name: x-engine, value: hidden}], add: [{name: x-added, value: a b}], remove: [x-inner]}
    backends: [{pool: blue}]
",
    )
    .await;
    let request = gateway
        .get("/x")
        .header("x-set", "old")
        .header("x-add", "old");
    let answer = send(request.header("x-gone", "1").header("x-left", "1")).await;
    let header = |name: &str| {
        answer
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    assert_eq!(header("x-engine"), Some("hidden"));
    assert_eq!(header("x-added"), Some("a b"));
    assert_eq!(header("x-inner"), None);
    let seen = gateway.blue.take().remove(0).to_lowercase();
    for line in [
        "x-set: new",
        "x-add: old",
        "x-add: more",
        "x-left: 1",
        "x-forwarded-proto: http",
    ] {
        assert!(
            seen.contains(&format!("\r\n{line}\r\n")),
            "{line} is not in {seen}"
        );
    }
    assert!(
        !seen.contains("x-gone") && !seen.contains("x-set: old"),
        "{seen}"
    );
}

#[tokio::test]
async fn a_prefix_and_the_host_are_rewritten_before_the_api_is_recognized() {
    let gateway = Gateway::start(
        "
routes:
- name: team
  rules:
  - matches: [{path: {prefix: /team-a}}]
    rewrite: {hostname: engine.internal, replacePrefix: /}
    backends: [{pool: blue}]
",
    )
    .await;
    let url = format!("{}/team-a/v1/chat/completions?x=1", gateway.proxy.url());
    let chat = gateway.http.post(url).header("host", "asked.example.com");
    let chat = chat.body(r#"{"model":"m","kv_transfer_params":{}}"#);
    assert_eq!(send(chat).await.status(), 200);
    let seen = gateway.blue.take().remove(0);
    assert!(
        seen.starts_with("POST /v1/chat/completions?x=1 HTTP/1.1\r\n"),
        "{seen}"
    );
    assert!(
        seen.ends_with("{\"model\":\"m\"}"),
        "control fields are removed: {seen}"
    );
    let seen = seen.to_lowercase();
    assert!(seen.contains("\r\nhost: engine.internal\r\n"), "{seen}");
    assert!(
        seen.contains("\r\nx-forwarded-host: asked.example.com\r\n"),
        "{seen}"
    );
}

#[tokio::test]
async fn a_redirect_answers_at_once() {
    let gateway = Gateway::start(
        "
routes:
- name: moved
  rules:
  - {matches: [{path: {prefix: /old}}], redirect: {scheme: https, hostname: new.example.com, replacePrefix: /new, status: 308}}
  - {backends: [{pool: blue}]}
",
    )
    .await;
    let direct = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    let direct = direct
        .redirect(redirect::Policy::none())
        .build()
        .expect("a client");
    let request = direct.get(format!("{}/old/a?b=c", gateway.proxy.url()));
    let answer = send(request).await;
    assert_eq!(answer.status(), 308);
    assert_eq!(
        answer.headers()["location"],
        "https://new.example.com/new/a?b=c"
    );
    assert!(answer.headers().contains_key("x-request-id"));
    assert_eq!(gateway.sent(gateway.get("/other")).await, TO_BLUE);
}

#[tokio::test]
async fn a_mirror_gets_copies_and_the_client_never_notices() {
    let gateway = Gateway::start(
        "
routes:
- name: shadowed
  rules:
  - matches: [{path: {prefix: /both}}]
    requestHeaders: {set: [{name: x-route, value: shadowed}]}
    mirrors: [{pool: green}, {pool: green, percent: 0}]
    backends: [{pool: blue}]
  - {backends: [{pool: blue}]}
",
    )
    .await;
    let url = format!("{}/both/a", gateway.proxy.url());
    let answer = send(gateway.http.post(url).body("text")).await;
    assert_eq!(answer.status(), 200);
    let original = gateway.blue.take().remove(0);
    let mut copies = Vec::new();
    eventually("the copy arrives", || {
        copies.extend(gateway.green.take());
        let is_there = !copies.is_empty();
        async move { is_there }
    })
    .await;
    let lines = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_lowercase).collect();
        // The copy has a span of its own.
        lines.retain(|line| !line.starts_with("traceparent"));
        lines.sort();
        lines
    };
    assert_eq!(lines(&original), lines(&copies[0]));
    let admin = gateway.proxy.admin_url();
    let sent = "hermes_route_mirrored_requests_total{route=\"shadowed\",result=\"sent\"}";
    assert_eq!(metric(&admin, sent).await, 1.0);
    assert_eq!(gateway.sent(gateway.get("/alone")).await, TO_BLUE);
}
