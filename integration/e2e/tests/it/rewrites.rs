//! Requests whose model is rewritten: what engines are asked for, and what clients get back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hermes_bench::fleet::{Fleet, Scene, instant};
use hermes_engine_sim::{EngineConfig, EngineHandle, RecordedRequest};
use hermes_testkit::scripted_engine::{ScriptedAnswer, ScriptedEngine, ScriptedRequest};
use reqwest::Response;
use serde_json::{Value, json};

use crate::{
    client::{ask, client, eventually, json_of, pieces, send},
    recorder::{Front, Recorder},
};

/// Engines behind a pool with these rewrites.
async fn fleet(engines: Vec<EngineConfig>, rewrites: &str) -> Fleet {
    let scene = Scene::of(0, "round-robin");
    let scene = Scene {
        engines,
        pool: format!("{}  rewrites: {rewrites}\n", scene.pool),
        ..scene
    };
    scene.start().await.expect("starts")
}

/// One engine with an adapter, and a pool that calls its model `chat`.
async fn chat_is_sim() -> Fleet {
    let engine = EngineConfig {
        loras: vec!["sql-lora".into()],
        ..instant()
    };
    let rewrites =
        "[{model: chat, targets: [{model: sim}]}, {model: sql, targets: [{model: sql-lora}]}]";
    fleet(vec![engine], rewrites).await
}

/// The requests for inference that an engine was sent.
fn sent(engine: &EngineHandle) -> Vec<Arc<RecordedRequest>> {
    let requests = engine.requests().into_iter();
    requests
        .filter(|request| request.method == http::Method::POST)
        .collect()
}

async fn post(fleet: &Fleet, path: &str, body: &Value) -> Response {
    let url = format!("{}{path}", fleet.url());
    send(client().post(url).json(body)).await
}

/// A body for each API, and where its documents and events name the model.
fn requests() -> [(&'static str, Value, &'static str, &'static [&'static str]); 4] {
    let messages = json!([{"role": "user", "content": "who are you?"}]);
    [
        (
            "/v1/chat/completions",
            json!({"messages": messages, "max_tokens": 5}),
            "/model",
            &["/model"],
        ),
        (
            "/v1/completions",
            json!({"prompt": "who are you?", "max_tokens": 5}),
            "/model",
            &["/model"],
        ),
        (
            "/v1/responses",
            json!({"input": "who are you?", "max_output_tokens": 5}),
            "/model",
            &["/response/model"],
        ),
        (
            "/v1/messages",
            json!({"messages": messages, "max_tokens": 5}),
            "/model",
            &["/message/model"],
        ),
    ]
}

fn named(mut body: Value, model: &str, stream: bool) -> Value {
    body["model"] = model.into();
    body["stream"] = stream.into();
    body
}

/// The documents of the events of a stream.
async fn events(response: Response) -> Vec<Value> {
    let (pieces, is_whole) = pieces(response).await;
    assert!(is_whole, "{pieces:?}");
    let text = pieces.concat();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).expect("JSON"))
        .collect()
}

#[tokio::test]
async fn every_api_names_what_the_client_asked_for_streamed_and_not() {
    let fleet = chat_is_sim().await;
    for (path, body, place, places) in requests() {
        for (asked, target) in [("chat", "sim"), ("sql", "sql-lora")] {
            let (status, answer) =
                json_of(post(&fleet, path, &named(body.clone(), asked, false)).await).await;
            assert_eq!(status, 200, "{path}: {answer}");
            assert_eq!(
                answer.pointer(place),
                Some(&asked.into()),
                "{path}: {answer}"
            );

            let stream = events(post(&fleet, path, &named(body.clone(), asked, true)).await).await;
            let models: Vec<&Value> = stream
                .iter()
                .flat_map(|event| places.iter().filter_map(|place| event.pointer(place)))
                .collect();
            assert!(!models.is_empty(), "{path}: {stream:?}");
            assert!(
                models.iter().all(|model| *model == asked),
                "{path}: {models:?}"
            );
            let seen = sent(&fleet.engines[0]);
            assert!(
                seen[seen.len() - 2..]
                    .iter()
                    .all(|seen| seen.json()["model"] == target),
                "{path}"
            );
        }
    }
}

#[tokio::test]
async fn only_the_model_of_a_body_is_changed_and_a_short_answer_keeps_a_length() {
    let fleet = chat_is_sim().await;
    let body = |model: &str| {
        format!(
            "{{\"model\" : {model},\n \"x_unknown\": [1.50, null],\t\"messages\":[{{\"role\":\"user\",\"content\":\"h\\u00e9 chat\"}}] , \"max_tokens\":1}}"
        )
    };
    let request = client().post(format!("{}/v1/chat/completions", fleet.url()));
    let request = request.header("content-type", "application/json");
    let response = send(request.body(body("\"c\\u0068at\""))).await;
    assert_eq!(response.status(), 200);
    let length: usize = response.headers()["content-length"]
        .to_str()
        .expect("a number")
        .parse()
        .expect("a number");
    let answer = response.bytes().await.expect("whole");
    assert_eq!(answer.len(), length);
    assert_eq!(sent(&fleet.engines[0])[0].body, body("\"sim\"").as_bytes());
}

#[tokio::test]
async fn requests_are_shared_by_weight_and_an_adapter_is_asked_for_where_it_is() {
    let adapted = EngineConfig {
        loras: vec!["sql-lora".into()],
        ..instant()
    };
    let rewrites =
        "[{model: chat, targets: [{model: sim, weight: 70}, {model: sql-lora, weight: 30}]}]";
    let fleet = fleet(vec![instant(), adapted, instant()], rewrites).await;
    eventually("the adapter is known", || async {
        let models = send(client().get(format!("{}/v1/models/sql-lora", fleet.url())));
        models.await.status() == 200
    })
    .await;
    let url = fleet.url();
    let body =
        json!({"model": "chat", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]});
    for _ in 0..600 {
        assert_eq!(send(ask(&url, &body)).await.status(), 200);
    }
    let mut shares = BTreeMap::<String, usize>::new();
    for (index, engine) in fleet.engines.iter().enumerate() {
        for request in sent(engine) {
            let model = request.json()["model"].as_str().expect("a name").to_owned();
            assert!(model == "sim" || index == 1, "{model} at {index}");
            *shares.entry(model).or_default() += 1;
        }
    }
    // Of 600 independent draws the deviation is 11: a wrong share of 60 % would be 60 less.
    let adapter = shares["sql-lora"];
    assert!((125..=235).contains(&adapter), "{shares:?}");
    assert_eq!(shares.values().sum::<usize>(), 600);
}

#[tokio::test]
async fn rewritten_names_are_listed_and_others_are_refused_by_the_nearest() {
    let fleet = chat_is_sim().await;
    let list = format!("{}/v1/models", fleet.url());
    eventually("engines have reported", || async {
        let (_, models) = json_of(send(client().get(&list)).await).await;
        let data = models["data"].as_array().expect("a list");
        let names: Vec<&str> = data
            .iter()
            .filter_map(|model| model["id"].as_str())
            .collect();
        names == ["chat", "sim", "sql", "sql-lora"]
    })
    .await;
    let (status, one) = json_of(send(client().get(format!("{list}/chat"))).await).await;
    assert_eq!((status, &one["max_model_len"]), (200, &131_072.into()));
    let body = json!({"model": "chta", "messages": []});
    let (status, error) = json_of(send(ask(&fleet.url(), &body)).await).await;
    assert_eq!(
        (status, error["error"]["code"].as_str()),
        (404, Some("model_not_found"))
    );
    assert!(
        error["error"]["message"]
            .as_str()
            .expect("text")
            .contains("chat"),
        "{error}"
    );
}

#[tokio::test]
async fn a_rewrite_of_any_model_serves_every_name_and_none() {
    let fleet = fleet(vec![instant()], "[{targets: [{model: sim}]}]").await;
    for model in [Some("gpt-4o"), None] {
        let mut body = json!({"max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]});
        if let Some(model) = model {
            body["model"] = model.into();
        }
        let (status, answer) = json_of(send(ask(&fleet.url(), &body)).await).await;
        assert_eq!(
            (status, answer["model"].as_str()),
            (200, model.or(Some("sim")))
        );
    }
    assert!(
        sent(&fleet.engines[0])
            .iter()
            .all(|seen| seen.json()["model"] == "sim")
    );
}

#[tokio::test]
async fn events_that_arrive_byte_by_byte_are_restored_and_errors_keep_their_messages() {
    let script = |request: &ScriptedRequest| {
        if !request.line.starts_with("POST") {
            return None;
        }
        if memchr::memmem::find(&request.body, b"\"stream\":true").is_none() {
            let error = "{\"error\":{\"message\":\"The model `sim` is busy\",\"code\":400}}";
            return Some(ScriptedAnswer::whole(
                "400 Bad Request",
                &["content-type: application/json"],
                error,
            ));
        }
        let event = "data: {\"id\":\"1\",\"model\":\"sim\",\"choices\":[{\"delta\":{\"content\":\"\\\"model\\\":\\\"sim\\\"\"}}]}\r\n\r\n";
        let bytes: Vec<&str> = event.split("").filter(|byte| !byte.is_empty()).collect();
        let pieces: Vec<(Duration, &str)> = bytes
            .into_iter()
            .map(|byte| (Duration::from_micros(100), byte))
            .collect();
        Some(ScriptedAnswer::events(&pieces))
    };
    let engine = ScriptedEngine::start(&["sim"], script)
        .await
        .expect("a free port");
    let scene = Scene::of(0, "round-robin");
    let fleet = Scene {
        endpoints: vec![engine.url()],
        pool: format!(
            "{}  rewrites: [{{model: chat, targets: [{{model: sim}}]}}]\n",
            scene.pool
        ),
        ..scene
    };
    let fleet = fleet.start().await.expect("starts");
    let stream = events(
        post(
            &fleet,
            "/v1/chat/completions",
            &json!({"model": "chat", "stream": true, "messages": []}),
        )
        .await,
    )
    .await;
    assert_eq!(stream[0]["model"], "chat");
    assert_eq!(
        stream[0]["choices"][0]["delta"]["content"],
        "\"model\":\"sim\""
    );
    let (status, error) = json_of(
        post(
            &fleet,
            "/v1/chat/completions",
            &json!({"model": "chat", "messages": []}),
        )
        .await,
    )
    .await;
    assert_eq!(
        (status, error["error"]["message"].as_str()),
        (400, Some("The model `sim` is busy"))
    );
}

#[tokio::test]
async fn the_model_of_a_form_is_rewritten_and_its_other_bytes_stay() {
    let engine = Recorder::start(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    )
    .await;
    let front = Front::start(&format!(
        "extraPaths: [/v1/audio/transcriptions]\npools:\n- name: audio\n  strategy: round-robin\n  endpoints: ['{}']\n  \
         rewrites: [{{model: listen, targets: [{{model: whisper-large}}]}}]\n",
        engine.url()
    ))
    .await;
    let form = |model: &str| {
        format!(
            "--b7\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n\
         --b7\r\ncontent-disposition: form-data; name=\"file\"; filename=\"listen\"\r\n\r\nRIFF listen\r\n--b7--\r\n"
        )
    };
    let request = client().post(format!("{}/v1/audio/transcriptions", front.url()));
    let request = request.header("content-type", "multipart/form-data; boundary=b7");
    assert_eq!(send(request.body(form("listen"))).await.status(), 200);
    let seen = engine.take();
    assert!(seen[0].ends_with(&form("whisper-large")), "{}", seen[0]);
    let length = format!("content-length: {}\r\n", form("whisper-large").len());
    assert!(
        seen[0].to_ascii_lowercase().contains(&length),
        "{}",
        seen[0]
    );
}
