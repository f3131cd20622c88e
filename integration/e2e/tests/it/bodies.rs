//! Bodies of requests: what is read of them, and what endpoints get.

use bytes::Bytes;
use hermes_bench::fleet::{Fleet, Scene};
use reqwest::{Body, Response};
use serde_json::Value;

use crate::client::{client, json_of, send};

/// Posts these bytes as JSON.
async fn post(url: &str, body: impl Into<Body>) -> Response {
    let request = client()
        .post(format!("{url}/v1/chat/completions"))
        .header("content-type", "application/json");
    send(request.body(body)).await
}

/// The bodies that the only engine was sent by clients.
fn received(fleet: &Fleet) -> Vec<Bytes> {
    let requests = fleet.engines[0].requests().into_iter();
    let posts = requests.filter(|seen| seen.method == http::Method::POST);
    posts.map(|seen| seen.body.clone()).collect()
}

async fn fleet() -> Fleet {
    Scene::of(1, "prefix-cache").start().await.expect("starts")
}

#[tokio::test]
async fn a_long_prompt_in_pieces_arrives_as_it_was_sent() {
    let fleet = fleet().await;
    let prompt = r#"a word or two, \"quoted\", and ü; "#.repeat(6_000);
    let before = format!(
        r#"{{"model":"sim", "max_tokens":1,"messages" : [{{"role":"user","content":"{prompt}"}}]"#
    );
    let body = Bytes::from(format!(r#"{before},"bootstrap_room":[1,"]"],"n":1}}"#));
    for size in [7_000, 50_000, body.len()] {
        let pieces: Vec<_> = body
            .chunks(size)
            .map(|piece| body.slice_ref(piece))
            .collect();
        let pieces = futures::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
        let response = post(&fleet.url(), Body::wrap_stream(pieces)).await;
        assert_eq!(response.status(), 200, "pieces of {size}");
        let sent = received(&fleet).pop().expect("forwarded");
        assert!(sent == format!(r#"{before},"n":1}}"#), "pieces of {size}");
    }
}

#[tokio::test]
async fn a_body_that_is_one_long_string_is_refused_in_a_few_words() {
    let fleet = fleet().await;
    let body = format!("\"{}\"", "secret ü".repeat(1 << 20));
    let (status, error) = json_of(post(&fleet.url(), body).await).await;
    assert_eq!(
        (status, &error["error"]["code"]),
        (400, &Value::from("invalid_body"))
    );
    assert_eq!(
        error["error"]["message"],
        "the body is not a valid JSON object: expected a JSON object at byte 0"
    );
}

#[tokio::test]
async fn fields_that_only_travel_on_are_for_the_engine_to_judge() {
    let fleet = fleet().await;
    let fields = [
        r#""stream":"True""#,
        r#""stream":0"#,
        r#""stream":1"#,
        r#""stream":"false""#,
        r#""user":"\ud800""#,
        r#""previous_response_id":"\ud800""#,
        r#""metadata":{"a":"\udc00"}"#,
        r#""model":"""#,
        r#""temperature":NaN"#,
    ];
    for field in fields {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],{field}}}"#);
        let (status, answer) = json_of(post(&fleet.url(), body.clone()).await).await;
        assert_ne!(answer["error"]["code"], "invalid_body", "{field}: {status}");
        let sent = received(&fleet).pop().unwrap_or_default();
        assert!(sent == body, "{field}: {answer}");
    }
}
