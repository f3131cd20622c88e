//! Endpoints that are spoken to over HTTP/2 without TLS.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use h2::Reason;
use hermes_testkit::http2_server::{Http2Answer, Http2Server, WholeAnswer};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::{
    client::{chat, client, eventually, metric, pieces, send},
    recorder::Front,
};

const ANSWER: &str = r#"{"choices":[{"message":{"content":"hello"}}]}"#;

/// One proxy in front of these servers.
async fn front(servers: &[&Http2Server]) -> Front {
    let urls: Vec<String> = servers
        .iter()
        .map(|server| format!("'http://{}'", server.address))
        .collect();
    Front::start(&format!(
        "pools: [{{name: chat, strategy: round-robin, http2: true, endpoints: [{}]}}]\n\
         routes: [{{name: all, rules: [{{backends: [{{pool: chat}}]}}]}}]\n",
        urls.join(", ")
    ))
    .await
}

async fn server(
    script: impl Fn(&Request<Bytes>, usize) -> Http2Answer + Send + Sync + 'static,
) -> Http2Server {
    Http2Server::start(script).await.expect("a port")
}

#[tokio::test]
async fn requests_share_connections_up_to_their_bound() {
    const REQUESTS: usize = 150;
    let slow = server(|_, _| Http2Answer::events(&[(Duration::from_millis(600), ANSWER)])).await;
    let front = front(&[&slow]).await;
    let (url, http) = (front.url(), client());
    let asked = (0..REQUESTS).map(|_| {
        let request = http.post(format!("{url}/v1/chat/completions"));
        send(request.body(r#"{"model":"m","messages":[]}"#))
    });
    for answer in join_all(asked).await {
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.expect("text"), ANSWER);
    }
    let seen = slow.requests();
    assert_eq!(seen.len(), REQUESTS);
    let connections = slow.connections();
    assert!((2..=16).contains(&connections), "{connections} connections");
    let opened = metric(
        &front.proxy.admin_url(),
        "hermes_endpoint_connections_opened_total",
    )
    .await;
    assert!(
        (opened - connections as f64).abs() < f64::EPSILON,
        "{opened}"
    );
    let request = &seen[0];
    assert_eq!(request.version(), Version::HTTP_2);
    assert_eq!(request.uri().path(), "/v1/chat/completions");
    let host = front.proxy.bound.listen.to_string();
    let authority = request.uri().authority().map(ToString::to_string);
    assert_eq!(authority, Some(host), "what the client asked");
    assert!(request.headers().get("host").is_none());
    assert_eq!(request.body(), r#"{"model":"m","messages":[]}"#);
}

#[tokio::test]
async fn a_server_that_allows_few_streams_gets_more_connections_and_no_request_waits() {
    const REQUESTS: usize = 24;
    let slow = |_: &Request<Bytes>, _| Http2Answer::events(&[(Duration::from_secs(2), ANSWER)]);
    let server = Http2Server::limited(Some(4), slow).await.expect("a port");
    let front = front(&[&server]).await;
    let asked = (0..REQUESTS).map(|_| send(chat(&front.url(), false, 1)));
    let answering = tokio::spawn(join_all(asked.collect::<Vec<_>>()));
    eventually("all are at the server at once", || async {
        server.requests().len() == REQUESTS && !answering.is_finished()
    })
    .await;
    for answer in answering.await.expect("no panic") {
        assert_eq!(answer.status(), 200);
    }
    assert!(server.connections() >= REQUESTS / 4);
}

#[tokio::test]
async fn a_long_head_passes_and_one_that_is_refused_is_asked_for_once_and_closes_nothing() {
    let server = server(|_, before| {
        let length = [0, 40 << 10, 100 << 10, 0][before.min(3)];
        let mut headers = HeaderMap::new();
        for number in 0..length / 1_024 {
            let name = format!("x-{number}").parse::<HeaderName>().expect("a name");
            let value = HeaderValue::from_str(&"v".repeat(1_024)).expect("a value");
            headers.insert(name, value);
        }
        Http2Answer::Whole(Box::new(WholeAnswer {
            headers,
            pieces: vec![(Duration::ZERO, ANSWER)],
            trailers: None,
        }))
    })
    .await;
    let front = front(&[&server]).await;
    // One connection of a client leads to one thread, which has connections of its own.
    let http = client();
    for (number, expected) in [200, 200, 502, 200].into_iter().enumerate() {
        let request = http.post(format!("{}/v1/chat/completions", front.url()));
        let answer = send(request.body(r#"{"model":"m","messages":[]}"#)).await;
        assert_eq!(answer.status(), expected);
        assert!(!answer.text().await.expect("whole").is_empty());
        assert_eq!(server.requests().len(), number + 1, "each is sent once");
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn probes_speak_the_same_protocol_and_find_the_endpoint_up() {
    let server = server(|_, _| Http2Answer::ok(ANSWER)).await;
    let front = front(&[&server]).await;
    let up = "hermes_endpoints{pool=\"chat\",health=\"up\"}";
    eventually("it is probed", || async { server.probes() > 2 }).await;
    eventually("the probes have found it", || async {
        metric(&front.proxy.admin_url(), up).await > 0.5
    })
    .await;
    let answer = send(chat(&front.url(), false, 1)).await;
    assert_eq!(answer.status(), 200);
    let panics = "hermes_endpoint_selections_total{pool=\"chat\",level=\"panic\"}";
    assert!(metric(&front.proxy.admin_url(), panics).await < 0.5);
}

#[tokio::test]
async fn streams_pass_piece_by_piece_and_a_client_that_leaves_resets_its_own_stream_only() {
    let first = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    let endless = server(move |request, _| {
        let pause = if request.uri().path() == "/v1/completions" {
            Duration::from_secs(600)
        } else {
            Duration::from_millis(300)
        };
        let mut headers = HeaderMap::new();
        headers.insert(
            "content-type",
            HeaderValue::from_static("text/event-stream"),
        );
        Http2Answer::Whole(Box::new(WholeAnswer {
            headers,
            pieces: vec![(Duration::ZERO, first), (pause, "data: [DONE]\n\n")],
            trailers: None,
        }))
    })
    .await;
    let front = front(&[&endless]).await;
    let whole = send(chat(&front.url(), true, 1)).await;
    let request = client()
        .post(format!("{}/v1/completions", front.url()))
        .body(r#"{"model":"m","prompt":"x","stream":true}"#);
    let mut left = send(request).await;
    let piece = left.chunk().await.expect("a piece").expect("a piece");
    assert_eq!(piece, first.as_bytes(), "before the rest");
    drop(left);
    eventually("the stream is reset", || async { endless.resets() == 1 }).await;
    let (read, is_whole) = pieces(whole).await;
    assert!(is_whole);
    assert_eq!(read.concat(), format!("{first}data: [DONE]\n\n"));
}

#[tokio::test]
async fn what_a_server_has_not_begun_with_is_sent_again_although_it_may_not_be_repeated() {
    let closing = server(|_, before| match before {
        0 => Http2Answer::ok("one"),
        1 => Http2Answer::Last("two"),
        2 => Http2Answer::Reset(Reason::REFUSED_STREAM),
        _ => Http2Answer::ok("more"),
    })
    .await;
    let front = front(&[&closing]).await;
    // The method of an added path may not be repeated.
    let post = || client().post(format!("{}/any", front.url())).body("x");
    for expected in ["one", "two", "more", "more"] {
        let answer = send(post()).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.text().await.expect("text"), expected);
    }
    assert!(closing.connections() >= 2, "one was closed");
}

#[tokio::test]
async fn a_stream_that_is_reset_or_a_connection_that_breaks_is_tried_elsewhere_if_it_may_be() {
    for fault in [
        Http2Answer::Reset(Reason::INTERNAL_ERROR),
        Http2Answer::Close,
    ] {
        let failing = server(move |_, _| fault.clone()).await;
        let healthy = server(|_, _| Http2Answer::ok(ANSWER)).await;
        let front = front(&[&failing, &healthy]).await;
        for _ in 0..2 {
            let answer = send(chat(&front.url(), false, 1)).await;
            assert_eq!(answer.status(), 200);
        }
        assert!(!failing.requests().is_empty());
        let post = client().post(format!("{}/any", front.url())).body("x");
        let answers = [
            send(post.try_clone().expect("text")).await,
            send(post).await,
        ];
        let statuses = answers.map(|answer| answer.status().as_u16());
        assert!(statuses.contains(&502), "it was seen: {statuses:?}");
    }
}

#[tokio::test]
async fn trailers_reach_a_client_of_http2_and_servers_of_grpc_are_asked_for_them() {
    let grpc = server(|_, _| {
        let (mut headers, mut trailers) = (HeaderMap::new(), HeaderMap::new());
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Http2Answer::Whole(Box::new(WholeAnswer {
            headers,
            pieces: vec![(Duration::ZERO, "message")],
            trailers: Some(trailers),
        }))
    })
    .await;
    let front = front(&[&grpc]).await;
    let stream = TcpStream::connect(front.proxy.bound.listen)
        .await
        .expect("listens");
    let connection = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, driver) = connection.await.expect("HTTP/2");
    let _driving = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(driver));
    let request = Request::post(format!(
        "http://{}/pkg.Service/Call",
        front.proxy.bound.listen
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers")
    .body(Full::new(Bytes::from_static(b"\0\0\0\0\0")))
    .expect("valid");
    let answer = sender.send_request(request).await.expect("an answer");
    let collected = answer.into_body().collect().await.expect("whole");
    let trailers = collected.trailers().cloned().expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "message");
    assert_eq!(grpc.requests()[0].headers()["te"], "trailers");
}
