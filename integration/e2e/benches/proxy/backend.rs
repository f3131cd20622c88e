//! A model server that costs almost nothing: a small JSON answer, or a stream of 50 events sent
//! without a pause.
//!
//! A request for the model [`HELD_MODEL`] gets the first event of a stream and then nothing, for as
//! long as the client stays; a POST to `/held` returns how many such streams are open. A prefill
//! leg of vLLM's NIXL gets parameters for a decode leg, with the blocks of its prompt. Everything
//! else that routers ask of an engine (health, models, metrics) gets a short, true answer. The
//! process ends when its standard input does, so none is left behind.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tokio::task::JoinSet;

use crate::process;
use crate::{BenchError, failed};

/// The model that answers.
pub const MODEL: &str = "sim";

/// The model whose streams stay open.
pub const HELD_MODEL: &str = "held";

/// Events in an ordinary stream.
const EVENTS: usize = 50;

/// A backend process, seen from the bench.
pub struct Backend {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    /// Its standard input keeps it alive.
    _process: Child,
}

impl Backend {
    /// Starts this binary as a backend and waits until it listens.
    pub async fn start() -> Result<Self, BenchError> {
        let mut child = process::itself("backend").map_err(failed("start a backend"))?;
        let stdout = child
            .stdout
            .take()
            .expect("the output of this binary's roles is piped");
        let mut line = String::new();
        BufReader::new(stdout)
            .read_line(&mut line)
            .await
            .map_err(failed("read a backend's address"))?;
        Ok(Self {
            url: format!("http://{}", line.trim()),
            _process: child,
        })
    }

    /// `HOST:PORT`.
    pub fn authority(&self) -> &str {
        self.url.trim_start_matches("http://")
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The role: serves until standard input ends.
pub async fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say_address(listener.local_addr()?)?;
    let held = Arc::new(AtomicUsize::new(0));
    let accept = async {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(converse(stream, Arc::clone(&held)));
            while connections.try_join_next().is_some() {}
        }
    };
    let mut nothing = [0; 1];
    let mut stdin = tokio::io::stdin();
    tokio::select! {
        () = accept => Ok(()),
        end = stdin.read(&mut nothing) => end.map(drop),
    }
}

async fn converse(stream: TcpStream, held: Arc<AtomicUsize>) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request| answer(request, Arc::clone(&held)));
    // A peer that goes away in the middle is no business of a backend.
    _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    held: Arc<AtomicUsize>,
) -> Result<Response<Body>, hyper::Error> {
    let (head, body) = request.into_parts();
    if head.method != Method::POST {
        return Ok(look_up(head.uri.path()));
    }
    let body = body.collect().await?.to_bytes();
    if head.uri.path() == "/held" {
        let count = held.load(Ordering::Relaxed);
        return Ok(json(Bytes::from(format!(
            r#"{{"choices":[{{"message":{{"content":"{count}"}}}}]}}"#
        ))));
    }
    let has = |text: &str| memchr::memmem::find(&body, text.as_bytes()).is_some();
    if has(r#""do_remote_decode":true"#) {
        return Ok(json(prefilled(body.len())));
    }
    if !has(r#""stream":true"#) {
        return Ok(json(Bytes::from_static(ANSWER)));
    }
    let hold = has(&format!(r#""model":"{HELD_MODEL}""#));
    Ok(if hold { hold_open(held) } else { events() })
}

const ANSWER: &[u8] = br#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"sim","choices":[{"index":0,"message":{"role":"assistant","content":"Hello!"},"finish_reason":"stop"}],"usage":{"prompt_tokens":200,"completion_tokens":1,"total_tokens":201}}"#;

/// Bytes of a body that become one block of a KV cache: 16 tokens of 4 bytes.
const BLOCK_BYTES: usize = 64;

/// [`ANSWER`], with what vLLM 0.32 hands over for a prompt of this size.
fn prefilled(prompt_bytes: usize) -> Bytes {
    let answer = str::from_utf8(ANSWER).expect("JSON");
    let blocks: Vec<String> = (0..prompt_bytes.div_ceil(BLOCK_BYTES))
        .map(|block| block.to_string())
        .collect();
    let (blocks, open) = (blocks.join(","), answer.trim_end_matches('}'));
    Bytes::from(format!(
        r#"{open}}},"kv_transfer_params":{{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[{blocks}]],"remote_engine_id":"bench","remote_request_id":"chatcmpl-1","remote_host":"127.0.0.1","remote_port":5600,"tp_size":1,"transfer_mode":"pull"}}}}"#
    ))
}

const EVENT: &[u8] = b"data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"sim\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";
const MODELS: &[u8] = br#"{"object":"list","data":[{"id":"sim","object":"model","created":1,"owned_by":"bench","max_model_len":131072},{"id":"held","object":"model","created":1,"owned_by":"bench","max_model_len":131072}]}"#;
const METRICS: &[u8] = b"# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name=\"sim\"} 0\n# TYPE vllm:num_requests_waiting gauge\nvllm:num_requests_waiting{model_name=\"sim\"} 0\n# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc{model_name=\"sim\"} 0.1\n";

fn look_up(path: &str) -> Response<Body> {
    match path {
        "/metrics" => whole("text/plain; version=0.0.4", Bytes::from_static(METRICS)),
        "/v1/models" => json(Bytes::from_static(MODELS)),
        _ => json(Bytes::from_static(b"{}")),
    }
}

fn json(body: Bytes) -> Response<Body> {
    whole("application/json", body)
}

fn whole(kind: &'static str, body: Bytes) -> Response<Body> {
    respond(kind, Full::new(body).boxed_unsync())
}

fn events() -> Response<Body> {
    let chunks = (0..EVENTS).map(|_| EVENT).chain([DONE]);
    // Each event is its own frame, flushed by itself: what a proxy relays are 50 reads, not one.
    let frames = stream::iter(chunks).then(async |chunk| {
        tokio::task::yield_now().await;
        Ok(Frame::data(Bytes::from_static(chunk)))
    });
    respond("text/event-stream", StreamBody::new(frames).boxed_unsync())
}

fn hold_open(held: Arc<AtomicUsize>) -> Response<Body> {
    held.fetch_add(1, Ordering::Relaxed);
    let open = Held(held);
    let first = stream::once(async { Ok(Frame::data(Bytes::from_static(EVENT))) });
    let silence = stream::once(async move {
        let _open = open;
        std::future::pending().await
    });
    respond(
        "text/event-stream",
        StreamBody::new(first.chain(silence)).boxed_unsync(),
    )
}

/// Counts an open stream for as long as its body lives.
struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn respond(kind: &'static str, body: Body) -> Response<Body> {
    Response::builder()
        .header("content-type", kind)
        .body(body)
        .expect("a constant header is valid")
}

/// The first line that a backend writes, which its parent waits for.
fn say_address(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{address}")?;
    out.flush()
}
