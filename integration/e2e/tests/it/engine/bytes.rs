//! Byte shapes: status, header names and key order as captured from vLLM 0.32, and errors byte for
//! byte.

use super::wire::{Answer, captured, exchange, get, keys, post, start, tiny};

const CHAT: &str = r#""model":"tiny","messages":[{"role":"user","content":"hello"}]"#;

fn assert_shape(ours: &Answer, name: &str) {
    let captured = captured(name);
    assert_eq!(
        (ours.status, ours.header_names()),
        (captured.status, captured.header_names()),
        "{name}"
    );
    assert_eq!(
        ours.header("content-type"),
        captured.header("content-type"),
        "{name}"
    );
    assert!(ours.complete, "{name}");
}

#[tokio::test]
async fn answers_have_the_headers_and_the_key_order_of_vllm() {
    let engine = start(tiny()).await;
    for (name, path) in [
        ("models", "/v1/models"),
        ("health", "/health"),
        ("ping", "/ping"),
        ("version", "/version"),
        ("load", "/load"),
    ] {
        let ours = get(&engine, path).await;
        assert_shape(&ours, name);
        assert_eq!(keys(&ours.body), keys(&captured(name).body), "{name}");
    }
    let chat = |more: &str| format!("{{{CHAT}{more}}}");
    let cases = [
        ("chat", "/v1/chat/completions", chat(r#","max_tokens":4"#)),
        (
            "token_prompt",
            "/v1/completions",
            r#"{"model":"tiny","prompt":[1,2,3],"max_tokens":2,"return_token_ids":true}"#
                .to_owned(),
        ),
        (
            "batch_prompt",
            "/v1/completions",
            r#"{"model":"tiny","prompt":["a","b"],"max_tokens":1}"#.to_owned(),
        ),
        ("messages", "/v1/messages", chat(r#","max_tokens":4"#)),
        ("count_tokens", "/v1/messages/count_tokens", chat("")),
        (
            "responses",
            "/v1/responses",
            r#"{"model":"tiny","input":"hello","max_output_tokens":4}"#.to_owned(),
        ),
        (
            "tokenize",
            "/tokenize",
            r#"{"model":"tiny","prompt":"hello","return_token_strs":true}"#.to_owned(),
        ),
        ("tokenize_chat", "/tokenize", chat("")),
        (
            "detokenize",
            "/detokenize",
            r#"{"model":"tiny","tokens":[97]}"#.to_owned(),
        ),
    ];
    for (name, path, body) in cases {
        let ours = post(&engine, path, &body).await;
        assert_shape(&ours, name);
        assert_eq!(keys(&ours.body), keys(&captured(name).body), "{name}");
    }
}

#[tokio::test]
async fn errors_are_those_of_vllm_byte_for_byte() {
    let engine = start(tiny()).await;
    let nope = r#"{"model":"nope","messages":[{"role":"user","content":"x"}],"max_tokens":4}"#;
    let cases = [
        ("chat_nomodel", "/v1/chat/completions", nope.to_owned()),
        ("messages_err", "/v1/messages", nope.to_owned()),
        (
            "chat_badjson",
            "/v1/chat/completions",
            r#"{"model":"tiny","messages":"#.to_owned(),
        ),
        (
            "chat_badtype",
            "/v1/chat/completions",
            r#"{"model":"tiny","messages":"x"}"#.to_owned(),
        ),
        (
            "chat_neg",
            "/v1/chat/completions",
            format!("{{{CHAT},\"max_tokens\":-1}}"),
        ),
        (
            "chat_toolong",
            "/v1/chat/completions",
            format!("{{{CHAT},\"max_tokens\":99999}}"),
        ),
        (
            "so_without_stream",
            "/v1/chat/completions",
            format!("{{{CHAT},\"stream_options\":{{\"include_usage\":true}}}}"),
        ),
        ("notfound", "/v1/nothing", "{}".to_owned()),
        ("method", "/v1/completions", String::new()),
    ];
    for (name, path, body) in cases {
        let method = if name == "method" { "GET" } else { "POST" };
        let ours = exchange(
            engine.addr(),
            method,
            path,
            &["content-type: application/json"],
            &body,
        )
        .await;
        assert_shape(&ours, name);
        assert_eq!(ours.body, captured(name).body, "{name}");
    }
    let ours = exchange(
        engine.addr(),
        "POST",
        "/v1/chat/completions",
        &["content-type: text/plain"],
        "{}",
    )
    .await;
    assert_shape(&ours, "wrong_ct");
    assert_eq!(ours.body, captured("wrong_ct").body);
}

#[tokio::test]
async fn streams_have_the_events_of_vllm() {
    let engine = start(tiny()).await;
    let chat = |more: &str| format!("{{{CHAT},\"stream\":true,{more}}}");
    let usage = r#""max_tokens":2,"stream_options":{"include_usage":true}"#;
    let continuous =
        r#""max_tokens":2,"stream_options":{"include_usage":true,"continuous_usage_stats":true}"#;
    let cases = [
        (
            "chat_stream",
            "/v1/chat/completions",
            chat(r#""max_tokens":3"#),
        ),
        ("chat_stream_usage", "/v1/chat/completions", chat(usage)),
        (
            "chat_stream_contusage",
            "/v1/chat/completions",
            chat(continuous),
        ),
        (
            "comp_stream_usage",
            "/v1/completions",
            format!(r#"{{"model":"tiny","prompt":"a","stream":true,{usage}}}"#),
        ),
        ("messages_stream", "/v1/messages", chat(r#""max_tokens":2"#)),
        (
            "responses_stream",
            "/v1/responses",
            r#"{"model":"tiny","input":"hi","max_output_tokens":2,"stream":true}"#.to_owned(),
        ),
    ];
    for (name, path, body) in cases {
        let ours = post(&engine, path, &body).await;
        let captured = captured(name);
        assert_shape(&ours, name);
        let events = |text: &str| -> Vec<String> {
            let lines = text.trim_end().lines();
            lines
                .map(|line| {
                    if line.contains('{') {
                        keys(line).join(",")
                    } else {
                        line.to_owned()
                    }
                })
                .collect()
        };
        assert_eq!(events(&ours.body), events(&captured.body), "{name}");
        assert!(
            ours.body.ends_with("\n\n"),
            "{name}: the last event is terminated"
        );
    }
}

#[tokio::test]
async fn a_request_id_names_the_answer_and_usage_counts_cached_tokens() {
    let engine = start(hermes_engine_sim::EngineConfig {
        prompt_tokens_details: true,
        block_size: 2,
        ..tiny()
    })
    .await;
    let body = format!("{{{CHAT},\"max_tokens\":4}}");
    let headers = ["content-type: application/json", "x-request-id: abc-123"];
    let first = exchange(
        engine.addr(),
        "POST",
        "/v1/chat/completions",
        &headers,
        &body,
    )
    .await
    .json();
    let second = exchange(
        engine.addr(),
        "POST",
        "/v1/chat/completions",
        &headers,
        &body,
    )
    .await
    .json();
    assert_eq!(first["id"], "chatcmpl-abc-123");
    assert_eq!(
        first["choices"], second["choices"],
        "answers are deterministic"
    );
    let prompt = first["usage"]["prompt_tokens"].as_u64().expect("a count");
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert_eq!(
        second["usage"]["prompt_tokens_details"]["cached_tokens"],
        (prompt - 1) / 2 * 2
    );
    assert_eq!(first["usage"]["total_tokens"], prompt + 4);
}

#[tokio::test]
async fn pooling_routes_answer_with_numbers() {
    let engine = start(tiny()).await;
    let embeddings = post(
        &engine,
        "/v1/embeddings",
        r#"{"model":"tiny","input":["a","b"]}"#,
    )
    .await
    .json();
    assert_eq!(embeddings["data"][1]["index"], 1);
    assert_ne!(
        embeddings["data"][0]["embedding"],
        embeddings["data"][1]["embedding"]
    );
    let ranked = post(
        &engine,
        "/v1/rerank",
        r#"{"model":"tiny","query":"q","documents":["a","b","c"]}"#,
    )
    .await
    .json();
    assert_eq!(ranked["results"].as_array().map(Vec::len), Some(3));
    let scores = post(
        &engine,
        "/v1/score",
        r#"{"model":"tiny","text_1":"q","text_2":["a","b"]}"#,
    )
    .await
    .json();
    assert_eq!(scores["data"].as_array().map(Vec::len), Some(2));
}
