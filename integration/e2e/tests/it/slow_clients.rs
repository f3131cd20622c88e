//! Clients that send nothing, send slowly, or do not read: each has its deadline, and holds no
//! engine and no place for longer.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hermes_bench::fleet::{self, Fleet, Scene};
use hermes_engine_sim::EngineConfig;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{interval, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    client::{chat, eventually, metric, send},
    recorder::{Front, LONG},
};

async fn fleet_with(limits: &str, engine: EngineConfig) -> Fleet {
    let scene = Scene {
        engines: vec![engine],
        top: format!("limits: {limits}\n"),
        ..Scene::of(0, "round-robin")
    };
    scene.start().await.expect("starts")
}

/// An instant engine.
async fn instant_fleet(limits: &str) -> Fleet {
    fleet_with(limits, fleet::instant()).await
}

fn address(fleet: &Fleet) -> SocketAddr {
    fleet.proxies[0].bound.listen
}

async fn connected(fleet: &Fleet) -> TcpStream {
    TcpStream::connect(address(fleet)).await.expect("listens")
}

/// Reads to the end of the connection.
async fn to_the_end(stream: &mut TcpStream) -> String {
    let mut read = Vec::new();
    let ended = timeout(LONG, stream.read_to_end(&mut read)).await;
    // An end by a reset is an end, too.
    let _by_reset = ended.expect("the proxy closes the connection");
    String::from_utf8_lossy(&read).into_owned()
}

/// Asks for the models on a connection that stays open.
async fn ask_for_models(stream: &mut TcpStream) {
    let head = b"GET /v1/models HTTP/1.1\r\nhost: proxy\r\n\r\n";
    stream.write_all(head).await.expect("an open connection");
    let mut answer = [0; 4_096];
    let read = timeout(LONG, stream.read(&mut answer)).await;
    let read = read.expect("in time").expect("an answer");
    assert!(answer[..read].starts_with(b"HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn a_connection_without_a_whole_head_is_closed_whatever_it_has_sent() {
    let fleet = instant_fleet("{clientTimeout: 200ms}").await;
    for sent in [
        "",
        "PRI * HTTP/2.0\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r",
        "P",
        "GET /v1/models HTTP/1.1\r\nhost: ",
        "\r\n",
    ] {
        let mut stream = connected(&fleet).await;
        stream.write_all(sent.as_bytes()).await.expect("open");
        assert_eq!(to_the_end(&mut stream).await, "", "{sent:?}");
    }
    let admin = fleet.proxies[0].admin_url();
    eventually("no connection is counted", || async {
        metric(&admin, "hermes_client_connections").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_second_head_has_its_own_deadline() {
    let fleet = instant_fleet("{clientTimeout: 200ms}").await;
    let mut stream = connected(&fleet).await;
    ask_for_models(&mut stream).await;
    stream.write_all(b"GET ").await.expect("open");
    assert_eq!(to_the_end(&mut stream).await, "");
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_longer_than_a_head_may_take() {
    let fleet = instant_fleet("{clientTimeout: 100ms}").await;
    let mut idle = connected(&fleet).await;
    ask_for_models(&mut idle).await;
    // Connected later, and closed after the time for a head.
    let mut silent = connected(&fleet).await;
    assert_eq!(to_the_end(&mut silent).await, "");
    ask_for_models(&mut idle).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_at_its_limit() {
    let fleet = instant_fleet("{keepAliveTimeout: 200ms}").await;
    let mut idle = connected(&fleet).await;
    ask_for_models(&mut idle).await;
    assert_eq!(to_the_end(&mut idle).await, "");
}

#[tokio::test]
async fn an_idle_connection_of_http2_is_closed_at_its_limit() {
    let fleet = instant_fleet("{clientTimeout: 100ms, keepAliveTimeout: 400ms}").await;
    let stream = connected(&fleet).await;
    let builder = http2::Builder::new(TokioExecutor::new());
    let (sender, driver) = builder
        .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .expect("connects");
    let driver = tokio::spawn(driver);
    timeout(LONG, driver)
        .await
        .expect("the proxy closes the connection")
        .expect("no panic")
        .expect("by GOAWAY");
    assert!(sender.is_closed());
}

#[tokio::test]
async fn a_body_that_dribbles_is_refused_and_holds_no_place() {
    let fleet = instant_fleet("{clientTimeout: 200ms, maxConcurrent: 1}").await;
    let mut stream = connected(&fleet).await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: proxy\r\ncontent-length: 1000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("open");
    let (mut read, mut write) = stream.into_split();
    let dribbling = AbortOnDropHandle::new(tokio::spawn(async move {
        let mut tick = interval(Duration::from_millis(20));
        while write.write_all(b" ").await.is_ok() {
            tick.tick().await;
        }
    }));
    let mut answer = [0; 4_096];
    let bytes = timeout(LONG, read.read(&mut answer)).await;
    let bytes = bytes.expect("in time").expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..bytes]);
    assert!(
        answer.starts_with("HTTP/1.1 408 Request Timeout"),
        "{answer}"
    );
    assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 200);
    drop(dribbling);
}

/// Sends requests over one connection of HTTP/2, with windows of `window` bytes.
async fn http2_client(
    fleet: &Fleet,
    window: u32,
) -> (
    http2::SendRequest<Full<Bytes>>,
    AbortOnDropHandle<hyper::Result<()>>,
) {
    let (sender, driver) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(connected(fleet).await))
        .await
        .expect("connects");
    (sender, AbortOnDropHandle::new(tokio::spawn(driver)))
}

async fn ask_over(
    sender: &mut http2::SendRequest<Full<Bytes>>,
    path: &str,
    body: &'static str,
) -> Response<Incoming> {
    let request = Request::post(format!("http://proxy{path}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .expect("a request");
    let answer = timeout(LONG, sender.send_request(request)).await;
    answer.expect("in time").expect("an answer")
}

const ENDLESS: &str = r#"{"model":"sim","stream":true,"max_tokens":100000,"messages":[{"role":"user","content":"go on"}]}"#;
const SHORT: &str =
    r#"{"model":"sim","max_tokens":1,"messages":[{"role":"user","content":"go on"}]}"#;

#[tokio::test]
async fn an_unread_stream_of_http2_is_reset_and_its_neighbours_go_on() {
    let engine = EngineConfig {
        time_scale: 0.1,
        ..EngineConfig::default()
    };
    let fleet = fleet_with("{sendTimeout: 300ms, maxConcurrent: 1}", engine).await;
    let (mut sender, _driver) = http2_client(&fleet, 2_048).await;
    let mut unread = ask_over(&mut sender, "/v1/chat/completions", ENDLESS).await;
    assert_eq!(unread.status(), 200);
    eventually("the engine is released", || async {
        fleet.engines[0].stats().running == 0
    })
    .await;
    let answer = ask_over(&mut sender, "/v1/chat/completions", SHORT).await;
    assert_eq!(answer.status(), 200, "the place is free again");
    answer.into_body().collect().await.expect("a whole answer");
    let rest = timeout(LONG, unread.body_mut().collect()).await;
    assert!(
        rest.expect("it ends").is_err(),
        "the stream did not end properly"
    );
}

/// A server that answers each `POST` without an end, as fast as it is read.
struct EndlessServer {
    address: SocketAddr,
    /// Answers that it sends.
    open: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

impl EndlessServer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let open = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&open);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    // It ends when the proxy closes the connection.
                    let _closed = answer_without_end(stream, &counted).await;
                });
            }
        });
        Self {
            address,
            open,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

async fn answer_without_end(mut stream: TcpStream, open: &AtomicUsize) -> io::Result<()> {
    let mut request = [0; 4_096];
    let read = stream.read(&mut request).await?;
    if !request[..read].starts_with(b"POST ") {
        let none = b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        return stream.write_all(none).await;
    }
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head).await?;
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x1_0000));
    open.fetch_add(1, Ordering::Relaxed);
    while stream.write_all(chunk.as_bytes()).await.is_ok() {}
    open.fetch_sub(1, Ordering::Relaxed);
    Ok(())
}

#[tokio::test]
async fn an_unread_answer_over_http1_is_cut() {
    let server = EndlessServer::start().await;
    let front = Front::start(&format!(
        "limits: {{sendTimeout: 300ms}}\npools: [{{name: chat, endpoints: ['http://{}'], strategy: round-robin}}]",
        server.address
    ))
    .await;
    let response = send(chat(&front.url(), true, 1)).await;
    assert_eq!((response.status().as_u16(), server.open()), (200, 1));
    eventually("the server is released", || async { server.open() == 0 }).await;
    drop(response);
}
