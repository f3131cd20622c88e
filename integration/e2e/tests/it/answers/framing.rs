//! How answers are framed: lengths that disagree, bodies that are refused before they are read, and
//! streams that break off.

use std::time::Duration;

use hermes_testkit::scripted_engine::{ScriptedAnswer, ScriptedEngine, ScriptedRequest};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_util::task::AbortOnDropHandle;

use super::{in_front_of, is_post, outcomes};
use crate::client::{ask, chat, client, eventually, pieces, send};

#[tokio::test]
async fn transfer_encoding_wins_over_a_length() {
    let body = format!("{{\"choices\":[],\"text\":\"{}\"}}", "x".repeat(500));
    for length in [0, 5, 150, 1_552] {
        let body_of_engine = body.clone();
        let engine = ScriptedEngine::start(&["sim"], move |request: &ScriptedRequest| {
            let size = body_of_engine.len();
            let text = format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: {length}\r\n\r\n\
                 {size:x}\r\n{body_of_engine}\r\n0\r\n\r\n"
            );
            is_post(request).then(|| ScriptedAnswer {
                pieces: vec![(Duration::ZERO, text.into_bytes())],
                closes: false,
            })
        });
        let engine = engine.await.expect("a free port");
        let fleet = in_front_of(&[&engine.url()], "").await;
        let response = send(chat(&fleet.url(), false, 1)).await;
        assert_eq!(response.text().await.expect("whole"), body, "{length}");
    }
}

/// An engine that answers 413 to every `POST` as soon as it has its head, and closes.
async fn refuses_bodies() -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let serving = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                let mut head = vec![0; 4_096];
                let read = stream.read(&mut head).await.unwrap_or(0);
                let answer: &[u8] = if head[..read].starts_with(b"POST") {
                    b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 3\r\n\
                      connection: close\r\n\r\nbig"
                } else {
                    b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                };
                stream.write_all(answer).await.expect("the peer is there");
            });
        }
    });
    (url, AbortOnDropHandle::new(serving))
}

#[tokio::test]
async fn a_body_that_is_refused_before_it_is_read_has_its_answer() {
    let engines = [refuses_bodies().await, refuses_bodies().await];
    let urls = [&*engines[0].0, &*engines[1].0];
    let fleet = in_front_of(&urls, "").await;
    let content = "x".repeat(8 << 20);
    let body = json!({"messages": [{"role": "user", "content": content}]});
    for _ in 0..8 {
        let response = send(ask(&fleet.url(), &body)).await;
        assert_eq!(response.status(), 413);
        assert_eq!(response.text().await.expect("whole"), "big");
    }
}

/// A stream of one event, with these line ends, that then breaks off.
async fn broken_after_an_event(end: &'static str) -> ScriptedEngine {
    let engine = ScriptedEngine::start(&["sim"], move |request: &ScriptedRequest| {
        let event = format!("data: {{\"choices\":[{{\"text\":\"a\"}}]}}{end}{end}");
        let mut answer = ScriptedAnswer::events(&[(Duration::ZERO, &event)]);
        // Without the last chunk.
        answer.pieces.pop();
        answer.closes = true;
        is_post(request).then_some(answer)
    });
    engine.await.expect("a free port")
}

#[tokio::test]
async fn a_stream_that_breaks_between_two_events_ends_with_an_error_whatever_ends_its_lines() {
    for end in ["\n", "\r\n", "\r"] {
        let engine = broken_after_an_event(end).await;
        let fleet = in_front_of(&[&engine.url()], "").await;
        let (pieces, whole) = pieces(send(chat(&fleet.url(), true, 1)).await).await;
        let body = pieces.concat();
        assert!(body.contains("upstream_died") && !whole, "{end:?}: {body}");
    }
}

#[tokio::test]
async fn a_message_that_breaks_off_ends_with_an_error_in_anthropics_shape() {
    let engine = broken_after_an_event("\n").await;
    let fleet = in_front_of(&[&engine.url()], "").await;
    let body = json!({"model": "sim", "stream": true, "max_tokens": 1, "messages": []});
    let request = client()
        .post(format!("{}/v1/messages", fleet.url()))
        .json(&body);
    let (pieces, whole) = pieces(send(request).await).await;
    let body = pieces.concat();
    let event = body.split("\n\n").nth(1).unwrap_or_default();
    let data = event.strip_prefix("event: error\ndata: ");
    let data: serde_json::Value =
        serde_json::from_str(data.unwrap_or_default()).expect("an error event");
    assert_eq!((&data["type"], whole), (&json!("error"), false), "{body}");
    assert_eq!(data["error"]["type"], "api_error");
    eventually("it is counted", || async {
        outcomes(&fleet, "truncated").await == 1.0
    })
    .await;
}
