//! Access records on the admin port of a proxy: replayable by tools, without any text of prompts.

use std::{io::BufReader, time::Duration};

use futures::StreamExt;
use hermes_bench::fleet::{Fleet, Scene};
use hermes_bench::load::trace::Trace;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::client::{ask, chat, client, send};

const SOON: Duration = Duration::from_secs(10);

/// A recording of the first proxy that has begun.
async fn recording(fleet: &Fleet) -> Response {
    let url = format!("{}/debug/records", fleet.proxies[0].admin_url());
    let recording = timeout(SOON, client().get(url).send())
        .await
        .expect("in time")
        .expect("an answer");
    assert_eq!(recording.status(), 200);
    recording
}

/// The first `count` lines of a recording.
async fn lines(recording: Response, count: usize) -> String {
    let (mut text, mut stream) = (String::new(), recording.bytes_stream());
    while text.lines().count() < count {
        let piece = timeout(SOON, stream.next())
            .await
            .expect("in time")
            .expect("it goes on")
            .expect("it is whole");
        text += std::str::from_utf8(&piece).expect("text");
    }
    text
}

#[tokio::test]
async fn a_recording_is_a_trace_of_what_finished_since_it_began() {
    let mut scene = Scene::of(2, "kv-aware");
    scene.pool.push_str("  tenant: key\n");
    let fleet = scene.start().await.expect("starts");
    assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 200);
    let recording = recording(&fleet).await;
    let said = "the secret of the sphinx ".repeat(60);
    let body =
        json!({"model": "sim", "max_tokens": 3, "messages": [{"role": "user", "content": said}]});
    for stream in [false, true] {
        let mut body = body.clone();
        body["stream"] = stream.into();
        body["stream_options"] = if stream {
            json!({"include_usage": true})
        } else {
            Value::Null
        };
        let answer = send(ask(&fleet.url(), &body).bearer_auth("sk-secret")).await;
        assert_eq!(answer.status(), 200);
        answer.bytes().await.expect("whole");
    }
    let text = lines(recording, 2).await;
    assert!(
        !text.contains("sphinx") && !text.contains("sk-secret"),
        "{text}"
    );

    let records = Trace::new(BufReader::new(text.as_bytes()))
        .collect::<Result<Vec<_>, _>>()
        .expect("a trace");
    let full: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    for (record, full) in records.iter().zip(&full) {
        assert!(
            record.input_length > 200 && record.output_length == 3,
            "{record:?}"
        );
        assert_eq!(record.hash_ids.len(), said.len() / 256);
        assert_eq!(
            (&full["model"], &full["pool"], &full["outcome"]),
            (&"sim".into(), &"chat".into(), &"ok".into())
        );
        assert!(
            full["ttft_ms"].as_f64().is_some() && full["tenant"].as_str().is_some(),
            "{full}"
        );
        assert_eq!(record.block_tokens(), 64.0);
        assert!(
            full["prompt_bytes"]
                .as_u64()
                .is_some_and(|bytes| bytes > said.len() as u64),
            "{full}"
        );
    }
    assert_eq!(
        records[0].hash_ids, records[1].hash_ids,
        "equal prompts have equal hashes"
    );
    assert_eq!(full[0]["tenant"], full[1]["tenant"]);
}

#[tokio::test]
async fn a_pool_that_reads_no_prompts_hashes_them_only_during_a_recording() {
    let fleet = Scene::of(1, "round-robin").start().await.expect("starts");
    let recording = recording(&fleet).await;
    let body = json!({"model": "sim", "max_tokens": 1, "prompt": "x".repeat(1_000)});
    let completions = client()
        .post(format!("{}/v1/completions", fleet.url()))
        .json(&body);
    assert_eq!(send(completions).await.status(), 200);
    let record: Value = serde_json::from_str(lines(recording, 1).await.trim()).expect("JSON");
    assert_eq!(record["hash_ids"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn cancelled_requests_are_recorded_too() {
    let fleet = Scene::of(1, "round-robin").start().await.expect("starts");
    let recording = recording(&fleet).await;
    fleet.engines[0]
        .faults()
        .set(hermes_engine_sim::Fault::RefuseConnections);
    assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 502);
    let record: Value = serde_json::from_str(lines(recording, 1).await.trim()).expect("JSON");
    assert_eq!(
        (&record["outcome"], &record["output_length"]),
        (&"failed".into(), &0.into())
    );
}

#[tokio::test]
async fn the_number_of_concurrent_recordings_is_limited() {
    let fleet = Scene::of(1, "round-robin").start().await.expect("starts");
    let url = format!("{}/debug/records", fleet.proxies[0].admin_url());
    let mut listening = Vec::new();
    let refused = loop {
        let answer = send(client().get(&url)).await;
        if answer.status() != 200 {
            break answer;
        }
        listening.push(answer);
    };
    assert_eq!((refused.status().as_u16(), listening.len()), (503, 4));
    drop(listening);
    crate::client::eventually("a place is free again", || async {
        send(client().get(&url)).await.status() == 200
    })
    .await;
}
