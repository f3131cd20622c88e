//! Requests that are refused before their body was read: the client reads the answer, even if it
//! sends its whole body first.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    client::eventually,
    recorder::{Front, LONG, Recorder},
};

/// More than the kernel keeps for a connection.
const MUCH: usize = 32 << 20;

async fn front(top: &str) -> (Recorder, Front) {
    let server = Recorder::start("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let front = Front::start(&format!("{top}{}", server.pool())).await;
    (server, front)
}

/// As node's fetch and Python's http.client do: the answer is read when the body is sent.
async fn send_all_and_read(front: &Front, head: &str, body: usize) -> String {
    let stream = TcpStream::connect(front.proxy.bound.listen).await;
    let mut stream = stream.expect("listens");
    let sending = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&vec![b'x'; body]).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(LONG, sending).await.expect("in time");
    let answer = answer.expect("the whole body is taken, and the answer arrives");
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(path: &str, fields: &str, length: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: proxy\r\n{fields}content-length: {length}\r\n\r\n")
}

#[tokio::test]
async fn a_client_that_sends_its_whole_body_first_reads_the_refusal() {
    let (server, front) = front("limits: {maxBodyBytes: 1MiB}\n").await;
    let chat = "/v1/chat/completions";
    let chunk = format!("{MUCH:x}\r\n");
    let chunked =
        format!("POST {chat} HTTP/1.1\r\nhost: proxy\r\ntransfer-encoding: chunked\r\n\r\n{chunk}");
    for (head, status, code) in [
        (post(chat, "", MUCH), 413, "request_too_large"),
        (chunked, 413, "request_too_large"),
        (post("/nowhere", "", MUCH), 404, "unknown_url"),
        (
            post(chat, "content-encoding: gzip\r\n", MUCH),
            415,
            "unsupported_encoding",
        ),
        (
            post(chat, &format!("x: {}\r\n", "y".repeat(70_000)), MUCH),
            431,
            "headers_too_large",
        ),
    ] {
        let answer = send_all_and_read(&front, &head, MUCH).await;
        let line = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&line), "{status}: {answer}");
        assert!(answer.contains("connection: close"), "{status}: {answer}");
        assert!(answer.contains(code), "{status}: {answer}");
    }
    assert!(server.take().is_empty());
}

#[tokio::test]
async fn a_refusal_of_a_short_body_keeps_the_connection() {
    let (_server, front) = front("").await;
    let short = format!("{}{}", post("/nowhere", "", 10), "x".repeat(10));
    let twice = format!(
        "{short}{}{}",
        post("/nowhere", "connection: close\r\n", 10),
        "x".repeat(10)
    );
    let answers = front.send_raw(twice.as_bytes()).await;
    assert_eq!(answers.matches("HTTP/1.1 404 ").count(), 2, "{answers}");
}

#[tokio::test]
async fn a_client_that_goes_on_sending_is_closed_in_the_end() {
    let (_server, front) = front("limits: {maxBodyBytes: 1KiB}\n").await;
    let stream = TcpStream::connect(front.proxy.bound.listen).await;
    let mut stream = stream.expect("listens");
    let head = post("/v1/chat/completions", "", MUCH);
    stream.write_all(head.as_bytes()).await.expect("is read");
    let mut answer = vec![0; 1_000];
    let read = timeout(LONG, stream.read(&mut answer)).await;
    read.expect("in time").expect("an answer");
    // It sends no more, and does not close its half either.
    let admin = front.proxy.admin_url();
    eventually("the connection is closed", || async {
        crate::client::metric(&admin, "hermes_client_connections").await == 0.0
    })
    .await;
    let _kept = (stream, Duration::ZERO);
}

#[tokio::test]
async fn an_encoded_body_is_refused_with_the_encodings_that_are_read() {
    let (server, front) = front("").await;
    for encoding in ["gzip", "zstd", "identity, br"] {
        let fields = format!("content-encoding: {encoding}\r\nconnection: close\r\n");
        let request = format!("{}{{}}", post("/v1/chat/completions", &fields, 2));
        let answer = front.send_raw(request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 415 "), "{answer}");
        assert!(answer.contains("accept-encoding: identity\r\n"), "{answer}");
    }
    let fields = "content-encoding: identity\r\nconnection: close\r\n";
    let request = format!("{}{{}}", post("/v1/chat/completions", fields, 2));
    let answer = front.send_raw(request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(server.take().len(), 1);
}
