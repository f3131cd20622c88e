//! A client that shows every byte, and the captures to compare with.

use std::net::SocketAddr;
use std::time::Duration;

use hermes_engine_sim::{Engine, EngineConfig, EngineHandle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than anything here takes; reached only by a failing test.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// An answer, its head taken apart and its body out of its chunks.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    /// Whether the body had the length that was promised, or its final chunk.
    pub(super) complete: bool,
}

impl Answer {
    fn parse(raw: &[u8]) -> Self {
        let text = String::from_utf8_lossy(raw);
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer has a head");
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|code| code.parse().ok());
        let headers: Vec<_> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect();
        let chunked = headers.iter().any(|(name, _)| name == "transfer-encoding");
        let length = headers
            .iter()
            .find(|(name, _)| name == "content-length")
            .and_then(|(_, length)| length.parse().ok());
        let (body, complete) = if chunked {
            dechunk(body)
        } else {
            (body.to_owned(), length == Some(body.len()))
        };
        Self {
            status: status.expect("a status line"),
            headers,
            body,
            complete,
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn header_names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self
            .headers
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| *name != "connection")
            .collect();
        names.sort_unstable();
        names
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }
}

fn dechunk(mut rest: &str) -> (String, bool) {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk size");
        if size == 0 {
            return (body, true);
        }
        let Some(chunk) = after.get(..size) else {
            break;
        };
        body.push_str(chunk);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    (body, false)
}

/// An engine that answers at once, with the names and sizes of the captured server.
pub(super) fn tiny() -> EngineConfig {
    EngineConfig {
        model: "tiny".to_owned(),
        time_scale: 0.0,
        block_size: 32,
        blocks: 1000,
        max_model_len: 4096,
        prompt_tokens_details: false,
        ..EngineConfig::default()
    }
}

pub(super) async fn start(config: EngineConfig) -> EngineHandle {
    Engine::start(config).await.expect("a free port")
}

/// Sends a request on its own connection; `headers` are whole lines.
pub(super) async fn send(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr).await?;
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nhost: engine\r\ncontent-length: {}\r\n",
        body.len()
    );
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    request.push_str(body);
    stream.write_all(request.as_bytes()).await?;
    Ok(stream)
}

/// Sends a request and reads until the engine closes.
pub(super) async fn exchange(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> Answer {
    let headers = [headers, &["connection: close"]].concat();
    let mut stream = send(addr, method, path, &headers, body)
        .await
        .expect("the engine listens");
    let mut raw = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut raw))
        .await
        .expect("the engine answers");
    assert!(
        read.is_ok() || !raw.is_empty(),
        "reset before any byte: {read:?}"
    );
    Answer::parse(&raw)
}

pub(super) async fn get(engine: &EngineHandle, path: &str) -> Answer {
    exchange(engine.addr(), "GET", path, &[], "").await
}

pub(super) async fn post(engine: &EngineHandle, path: &str, body: &str) -> Answer {
    exchange(
        engine.addr(),
        "POST",
        path,
        &["content-type: application/json"],
        body,
    )
    .await
}

/// The value of one sample of `/metrics`.
pub(super) async fn metric(engine: &EngineHandle, name: &str) -> f64 {
    let page = get(engine, "/metrics").await.body;
    let line = page
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")))
        .expect("the metric is exposed");
    line.rsplit(' ')
        .next()
        .and_then(|value| value.parse().ok())
        .expect("a number")
}

/// Waits until `holds`; for what another task is about to do.
pub(super) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let poll = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(
        timeout(PATIENCE, poll).await.is_ok(),
        "{what} did not come true"
    );
}

/// The captured answer of this name.
pub(super) fn captured(name: &str) -> Answer {
    const HTTP: &str = include_str!("../../../../engine-sim/fixtures/vllm-0.32.0-http.txt");
    const SSE: &str = include_str!("../../../../engine-sim/fixtures/vllm-0.32.0-sse.txt");
    let sections = HTTP.split("### ").chain(SSE.split("### "));
    let section = sections
        .filter_map(|section| section.split_once('\n'))
        .find(|(title, _)| *title == name)
        .expect("a capture")
        .1;
    let (head, body) = section.split_once("\n\n").expect("head and body");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("a status");
    let headers = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    Answer {
        status,
        headers,
        body: body.trim_end().to_owned(),
        complete: true,
    }
}

/// The keys of all objects in this text, in the order of their bytes.
pub(super) fn keys(json: &str) -> Vec<&str> {
    let mut keys = Vec::new();
    let mut rest = json;
    while let Some(start) = rest.find('"') {
        let text = &rest[start + 1..];
        let mut escaped = false;
        let end = text.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end else { break };
        rest = &text[end + 1..];
        if rest.starts_with(':') {
            keys.push(&text[..end]);
        }
    }
    keys
}
