//! Requests to a proxy, and waiting for conditions.

use std::time::Duration;

use futures::StreamExt;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

/// No step of these tests takes longer, unless something hangs.
const LONG: Duration = Duration::from_secs(20);

/// A client with its own connections, without a proxy from the environment.
pub(crate) fn client() -> Client {
    hermes_runtime::crypto::install_default_crypto();
    Client::builder()
        .no_proxy()
        .http1_only()
        .timeout(LONG)
        .tls_certs_only([])
        .build()
        .expect("a plain client")
}

/// A chat request.
pub(crate) fn chat(url: &str, stream: bool, tokens: u32) -> RequestBuilder {
    ask(
        url,
        &json!({
            "model": "sim", "stream": stream, "max_tokens": tokens,
            "messages": [{"role": "user", "content": "what does a router do all day?"}],
        }),
    )
}

/// Any chat body.
pub(crate) fn ask(url: &str, body: &Value) -> RequestBuilder {
    client()
        .post(format!("{url}/v1/chat/completions"))
        .json(body)
}

/// Sends a request and expects a response of any status.
pub(crate) async fn send(request: RequestBuilder) -> Response {
    timeout(LONG, request.send())
        .await
        .expect("in time")
        .expect("an answer")
}

/// Status and JSON body.
pub(crate) async fn json_of(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, response.json().await.expect("a JSON body"))
}

/// The pieces of a streamed body, and whether it ended properly.
pub(crate) async fn pieces(response: Response) -> (Vec<String>, bool) {
    let mut stream = response.bytes_stream();
    let mut pieces = Vec::new();
    while let Some(piece) = timeout(LONG, stream.next()).await.expect("in time") {
        match piece {
            Ok(bytes) => pieces.push(String::from_utf8_lossy(&bytes).into_owned()),
            Err(_) => return (pieces, false),
        }
    }
    (pieces, true)
}

/// Waits until `condition` is true. Fails with `what` after [`LONG`].
#[track_caller]
pub(crate) fn eventually<F, Fut>(what: &'static str, mut condition: F) -> impl Future<Output = ()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let caller = std::panic::Location::caller();
    async move {
        let began = Instant::now();
        while !condition().await {
            assert!(
                began.elapsed() < LONG,
                "{caller}: never became true: {what}"
            );
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The value of the metric `series`, 0 if it is absent.
pub(crate) async fn metric(admin_url: &str, series: &str) -> f64 {
    let page = client()
        .get(format!("{admin_url}/metrics"))
        .send()
        .await
        .expect("metrics")
        .text()
        .await
        .expect("text");
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or(0.0)
}
