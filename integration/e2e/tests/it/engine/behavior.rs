//! What a router can observe: caching, queueing, cancellation, keep-alive, restarts.

use std::time::Duration;

use hermes_engine_sim::{EngineConfig, Prompt};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::wire::{PATIENCE, eventually, exchange, get, metric, post, send, start, tiny};

const JSON: &str = "content-type: application/json";

/// An engine whose steps take long enough to look at it meanwhile.
fn slow() -> EngineConfig {
    EngineConfig {
        time_scale: 1.0,
        step_base: Duration::from_millis(20),
        ..tiny()
    }
}

fn completion(prompt: &str, max_tokens: u32, stream: bool) -> String {
    format!(r#"{{"model":"tiny","prompt":"{prompt}","max_tokens":{max_tokens},"stream":{stream}}}"#)
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_blocks_streaming_or_not() {
    let engine = start(slow()).await;
    for stream in [true, false] {
        let client = send(
            engine.addr(),
            "POST",
            "/v1/completions",
            &[JSON],
            &completion("hello", 2000, stream),
        )
        .await
        .unwrap();
        eventually("running", || engine.stats().running == 1).await;
        assert!(engine.stats().used_blocks > 0);
        drop(client);
        eventually("aborted", || engine.stats().running == 0).await;
    }
    let stats = engine.stats();
    assert_eq!((stats.aborted, stats.used_blocks), (2, 0));
}

#[tokio::test]
async fn a_stream_sends_its_head_at_once_and_no_byte_before_the_first_token() {
    let engine = start(EngineConfig {
        prefill_rate: 1.0,
        ..slow()
    })
    .await;
    let body = completion(&"word".repeat(100), 2, true);
    let mut client = send(engine.addr(), "POST", "/v1/completions", &[JSON], &body)
        .await
        .unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(
            timeout(PATIENCE, client.read_u8())
                .await
                .expect("the head comes at once")
                .unwrap(),
        );
    }
    eventually("prefill", || engine.stats().running == 1).await;
    assert!(
        timeout(Duration::from_millis(50), client.read_u8())
            .await
            .is_err(),
        "a body byte came before the first token"
    );
}

#[tokio::test]
async fn requests_beyond_the_seats_wait_and_the_metrics_say_so() {
    let engine = start(EngineConfig {
        max_running: 1,
        ..slow()
    })
    .await;
    let mut clients = Vec::new();
    for prompt in ["a", "b", "c"] {
        clients.push(
            send(
                engine.addr(),
                "POST",
                "/v1/completions",
                &[JSON],
                &completion(prompt, 2000, true),
            )
            .await
            .unwrap(),
        );
    }
    eventually("queued", || engine.stats().waiting == 2).await;
    assert_eq!(metric(&engine, "vllm:num_requests_running").await, 1.0);
    assert_eq!(metric(&engine, "vllm:num_requests_waiting").await, 2.0);
    assert!(metric(&engine, "vllm:kv_cache_usage_perc").await > 0.0);
}

#[tokio::test]
async fn a_short_prompt_overtakes_a_long_one_where_requests_share_the_time() {
    // The long prompt takes a minute, which the test does not wait for.
    let engine = start(EngineConfig {
        prefill_rate: 100.0,
        shared_time: Some(2.0),
        blocks: 4_000,
        max_model_len: 10_000,
        ..slow()
    })
    .await;
    let long = completion(&"word".repeat(6_000), 1, false);
    let _long = send(engine.addr(), "POST", "/v1/completions", &[JSON], &long)
        .await
        .unwrap();
    eventually("long", || engine.stats().running == 1).await;
    let short = completion("word", 1, false);
    let answer = post(&engine, "/v1/completions", &short).await;
    assert_eq!(answer.status, 200);
    assert_eq!(engine.stats().running, 1, "the long one still runs");
}

#[tokio::test]
async fn a_prefix_is_held_until_a_restart_and_adapters_do_not_share_it() {
    let engine = start(EngineConfig {
        loras: vec!["lora-a".to_owned()],
        ..tiny()
    })
    .await;
    let prompt = "word".repeat(100);
    assert_eq!(engine.held_prefix_tokens("tiny", Prompt::Text(&prompt)), 0);
    post(&engine, "/v1/completions", &completion(&prompt, 1, false)).await;
    assert_eq!(engine.held_prefix_tokens("tiny", Prompt::Text(&prompt)), 96);
    assert_eq!(
        engine.held_prefix_tokens("lora-a", Prompt::Text(&prompt)),
        0
    );
    post(&engine, "/v1/completions", &completion(&prompt, 1, false)).await;
    assert_eq!(metric(&engine, "vllm:prefix_cache_hits_total").await, 96.0);
    let addr = engine.addr();
    engine.restart().await.unwrap();
    assert_eq!(
        (
            engine.addr(),
            engine.held_prefix_tokens("tiny", Prompt::Text(&prompt))
        ),
        (addr, 0)
    );
    assert_eq!(metric(&engine, "vllm:prefix_cache_hits_total").await, 0.0);
    let models = get(&engine, "/v1/models").await.json();
    assert_eq!(
        (&models["data"][1]["id"], &models["data"][1]["parent"]),
        (&"lora-a".into(), &"tiny".into())
    );
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_long_stream_is_not() {
    let engine = start(EngineConfig {
        keep_alive: Duration::from_millis(60),
        ..slow()
    })
    .await;
    let mut client = send(
        engine.addr(),
        "POST",
        "/v1/completions",
        &[JSON],
        &completion("hello", 10, true),
    )
    .await
    .unwrap();
    let mut raw = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut raw))
        .await
        .expect("closed when idle")
        .unwrap();
    let text = String::from_utf8(raw).unwrap();
    assert_eq!(text.matches("\"index\":0").count(), 10);
    assert!(
        text.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"),
        "the stream outlived the idle time and ended whole"
    );
}

#[tokio::test]
async fn a_stop_lets_a_stream_finish_and_refuses_new_connections() {
    let engine = start(slow()).await;
    let body = completion("hello", 20, true);
    let mut client = send(engine.addr(), "POST", "/v1/completions", &[JSON], &body)
        .await
        .unwrap();
    eventually("running", || engine.stats().running == 1).await;
    let mut raw = Vec::new();
    let (_, read) = tokio::join!(engine.stop(), client.read_to_end(&mut raw));
    read.unwrap();
    assert!(raw.ends_with(b"data: [DONE]\n\n\r\n0\r\n\r\n"));
    let refused = send(engine.addr(), "GET", "/health", &[], "")
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_killed_engine_resets_its_connections() {
    let engine = start(slow()).await;
    let body = completion("hello", 2000, true);
    let mut client = send(engine.addr(), "POST", "/v1/completions", &[JSON], &body)
        .await
        .unwrap();
    eventually("running", || engine.stats().running == 1).await;
    engine.kill().await;
    let error = client.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn the_journal_has_the_request_as_it_was_sent() {
    let engine = start(tiny()).await;
    let body = "{\"model\" : \"tiny\",\n \"prompt\":\"x\", \"max_tokens\":1}";
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    exchange(
        engine.addr(),
        "POST",
        "/v1/completions?a=b",
        &[JSON, trace, "tracestate: k=v"],
        body,
    )
    .await;
    let requests = engine.requests();
    let [request] = requests.as_slice() else {
        panic!("one request")
    };
    assert_eq!(request.body, body);
    assert_eq!(
        (request.uri.to_string(), request.header("tracestate")),
        ("/v1/completions?a=b".to_owned(), Some("k=v"))
    );
    assert_eq!(request.header("traceparent"), trace.split(": ").nth(1));
}

#[tokio::test]
async fn a_key_guards_v1_and_nothing_else() {
    let engine = start(EngineConfig {
        api_key: Some("secret".to_owned()),
        ..tiny()
    })
    .await;
    let answer = get(&engine, "/v1/models").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (401, r#"{"error":"Unauthorized"}"#)
    );
    let answer = exchange(
        engine.addr(),
        "GET",
        "/v1/models",
        &["authorization: Bearer secret"],
        "",
    )
    .await;
    assert_eq!(answer.status, 200);
    assert_eq!(get(&engine, "/metrics").await.status, 200);
}

#[tokio::test]
async fn many_concurrent_streams_all_end_whole() {
    let config = EngineConfig {
        time_scale: 0.01,
        max_running: 4096,
        blocks: 8000,
        ..tiny()
    };
    let engine = start(config).await;
    let mut clients = JoinSet::new();
    for number in 0..2000 {
        let addr = engine.addr();
        let body = completion(&format!("prompt {number}"), 4, true);
        clients
            .spawn(async move { exchange(addr, "POST", "/v1/completions", &[JSON], &body).await });
    }
    while let Some(answer) = clients.join_next().await {
        let answer = answer.unwrap();
        assert!(answer.complete && answer.body.ends_with("data: [DONE]\n\n"));
    }
    assert_eq!(
        (engine.stats().requests, engine.stats().used_blocks),
        (2000, 0)
    );
}
