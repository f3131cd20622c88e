//! An engine whose answers are bytes that a test writes: for what no simulated engine does.
//!
//! It speaks HTTP/1.1 on one port. `GET /v1/models` lists its models and `GET /health` is 200;
//! other pages are 404, unless the script answers them. Every other request is answered by the
//! script, byte by byte as it says.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

/// A running engine; dropping it closes its port and its connections.
#[derive(Debug)]
pub struct ScriptedEngine {
    address: SocketAddr,
    requests: Arc<AtomicUsize>,
    _accepting: AbortOnDropHandle<()>,
}

/// One request that the engine read.
#[derive(Clone, Debug)]
pub struct ScriptedRequest {
    /// Method and target, as in `POST /v1/completions`.
    pub line: String,
    /// The body.
    pub body: Vec<u8>,
}

/// What is sent for one request.
#[derive(Clone, Debug, Default)]
pub struct ScriptedAnswer {
    /// Bytes, each after a pause.
    pub pieces: Vec<(Duration, Vec<u8>)>,
    /// Whether the connection is closed afterwards.
    pub closes: bool,
}

type Script = dyn Fn(&ScriptedRequest) -> Option<ScriptedAnswer> + Send + Sync;

impl ScriptedEngine {
    /// Listens on a free port. `script` answers a request; `None` leaves it to the engine.
    ///
    /// # Errors
    ///
    /// When no port is free.
    pub async fn start(
        models: &[&str],
        script: impl Fn(&ScriptedRequest) -> Option<ScriptedAnswer> + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let requests = Arc::new(AtomicUsize::new(0));
        let (script, models): (Arc<Script>, _) = (Arc::new(script), list_of(models));
        let counted = Arc::clone(&requests);
        let accepting = tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.retain(|task: &AbortOnDropHandle<_>| !task.is_finished());
                let (script, models) = (Arc::clone(&script), models.clone());
                let serving = serve(stream, script, models, Arc::clone(&counted));
                connections.push(AbortOnDropHandle::new(tokio::spawn(serving)));
            }
        });
        Ok(Self {
            address,
            requests,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The `POST` requests that it read.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

impl ScriptedAnswer {
    /// A whole answer with this status line, headers (whole lines) and body.
    #[must_use]
    pub fn whole(status: &str, headers: &[&str], body: &str) -> Self {
        let mut text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n", body.len());
        for header in headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        text.push_str(body);
        Self {
            pieces: vec![(Duration::ZERO, text.into_bytes())],
            closes: false,
        }
    }

    /// A 200 with this body of events, each after a pause, and the end of the body.
    #[must_use]
    pub fn events(events: &[(Duration, &str)]) -> Self {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len()).into_bytes();
        let mut pieces = vec![(Duration::ZERO, head.as_bytes().to_vec())];
        pieces.extend(events.iter().map(|(pause, text)| (*pause, chunk(text))));
        pieces.push((Duration::ZERO, b"0\r\n\r\n".to_vec()));
        Self {
            pieces,
            closes: false,
        }
    }

    /// Ends the connection without a byte.
    #[must_use]
    pub const fn closed() -> Self {
        Self {
            pieces: Vec::new(),
            closes: true,
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    script: Arc<Script>,
    models: String,
    requests: Arc<AtomicUsize>,
) {
    let mut unread = Vec::new();
    while let Some(request) = next_request(&mut stream, &mut unread).await {
        if request.line.starts_with("POST") {
            requests.fetch_add(1, Ordering::Relaxed);
        }
        let answer = script(&request).unwrap_or_else(|| page(&request.line, &models));
        for (pause, bytes) in &answer.pieces {
            if !pause.is_zero() {
                sleep(*pause).await;
            }
            if stream.write_all(bytes).await.is_err() {
                return;
            }
        }
        if answer.closes {
            return;
        }
    }
}

/// What every engine answers.
fn page(line: &str, models: &str) -> ScriptedAnswer {
    let path = line.split(' ').nth(1).unwrap_or_default();
    match path {
        "/v1/models" => {
            ScriptedAnswer::whole("200 OK", &["content-type: application/json"], models)
        }
        "/health" => ScriptedAnswer::whole("200 OK", &[], ""),
        _ => ScriptedAnswer::whole("404 Not Found", &[], "{\"detail\":\"Not Found\"}"),
    }
}

fn list_of(models: &[&str]) -> String {
    let cards = models.iter().map(|model| format!("{{\"id\":\"{model}\"}}"));
    let cards: Vec<String> = cards.collect();
    format!("{{\"object\":\"list\",\"data\":[{}]}}", cards.join(","))
}

/// The next request of a connection; `None` when it ends.
async fn next_request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<ScriptedRequest> {
    let head = loop {
        if let Some(end) = memchr::memmem::find(unread, b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(unread).await.unwrap_or(0) == 0 {
            return None;
        }
    };
    let text = String::from_utf8_lossy(&unread[..head]).into_owned();
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse().unwrap_or(0))
    });
    let end = head + length.unwrap_or(0);
    while unread.len() < end {
        if stream.read_buf(unread).await.unwrap_or(0) == 0 {
            return None;
        }
    }
    let body = unread[head..end].to_vec();
    unread.drain(..end);
    let mut words = text.lines().next()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    Some(ScriptedRequest {
        line: format!("{method} {target}"),
        body,
    })
}
