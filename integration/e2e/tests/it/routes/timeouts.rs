//! Time limits of routes.

use std::{net::TcpListener, time::Duration};

use tokio::time::Instant;

use crate::{
    client::{client, json_of, pieces, send},
    recorder::{Front, Recorder},
};

#[tokio::test]
async fn a_service_that_does_not_answer_is_given_up_when_the_route_says() {
    // Connections are accepted by the kernel, and nothing is read.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("bound");
    let front = Front::start(&format!(
        "pools: [{{name: silent, strategy: round-robin, endpoints: ['http://{address}']}}]
routes:
- name: r
  rules:
  - {{matches: [{{path: {{prefix: /whole}}}}], timeouts: {{request: 300ms}}, backends: [{{pool: silent}}]}}
  - {{matches: [{{path: {{prefix: /attempt}}}}], timeouts: {{backendRequest: 300ms}}, backends: [{{pool: silent}}]}}
"
    ))
    .await;
    for path in ["/whole", "/attempt"] {
        let began = Instant::now();
        let answer = send(client().get(format!("{}{path}", front.url()))).await;
        let (status, error) = json_of(answer).await;
        assert_eq!(
            (status, &error["error"]["code"]),
            (504, &"upstream_timeout".into()),
            "{path}"
        );
        assert!(began.elapsed() >= Duration::from_millis(300), "{path}");
    }
}

#[tokio::test]
async fn a_stream_that_goes_on_for_longer_is_cut_off() {
    let endless = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n";
    let server = Recorder::start(endless).await;
    let front = Front::start(&format!(
        "{}routes: [{{name: r, rules: [{{timeouts: {{request: 500ms}}, backends: [{{pool: chat}}]}}]}}]",
        server.pool()
    ))
    .await;
    let url = format!("{}/v1/chat/completions", front.url());
    let request = client().post(url).body(r#"{"model":"m","stream":true}"#);
    let began = Instant::now();
    let answer = send(request).await;
    assert_eq!(answer.status(), 200);
    let (pieces, is_whole) = pieces(answer).await;
    assert!(pieces.concat().starts_with("data: a"), "{pieces:?}");
    assert!(!is_whole && began.elapsed() >= Duration::from_millis(500));
}
