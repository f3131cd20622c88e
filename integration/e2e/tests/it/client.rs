//! What the stories say to a proxy, and how they wait for what must become true.

use std::time::Duration;

use futures::StreamExt;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

/// Nothing in these stories takes longer, unless something hangs.
const LONG: Duration = Duration::from_secs(20);

/// A client without pooling surprises: its own connections, no proxy of the environment.
pub(crate) fn client() -> Client {
    hermes_runtime::crypto::install_default_crypto();
    Client::builder()
        .no_proxy()
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

/// Sends and expects an answer, whatever its status.
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

/// The pieces of a streamed body, and whether it ended as a whole.
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

/// Waits until `holds`, and says what did not become true.
#[track_caller]
pub(crate) fn eventually<F, Fut>(what: &'static str, mut holds: F) -> impl Future<Output = ()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let caller = std::panic::Location::caller();
    async move {
        let began = Instant::now();
        while !holds().await {
            assert!(
                began.elapsed() < LONG,
                "{caller}: never became true: {what}"
            );
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The value of one metric line that begins with `series`, 0 when it is not there.
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
