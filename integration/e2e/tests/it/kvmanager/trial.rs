//! The KV manager of trials: it is right about simulated engines, and says nothing of anybody else.

use hermes_bench::fleet::instant;
use hermes_bench::kv_manager::{TrialArgs, TrialServer};
use hermes_engine_sim::{Engine, EngineConfig, EngineHandle};
use serde_json::{Value, json};

use crate::client::{ask, client, json_of, send};

#[tokio::test]
async fn the_manager_of_trials_says_which_engine_holds_how_much() {
    let (warm, cold) = (engine().await, engine().await);
    let messages = json!([{"role": "user", "content": "tell me of routers ".repeat(400)}]);
    let body = json!({"model": "sim", "messages": messages, "max_tokens": 1});
    assert_eq!(send(ask(&warm.url(), &body)).await.status(), 200);

    // Nobody listens at the last one.
    let candidates = [
        warm.addr().to_string(),
        cold.addr().to_string(),
        "127.0.0.1:9".to_owned(),
    ];
    let answer =
        ask_manager(&json!({"model": "sim", "messages": messages, "candidates": candidates})).await;
    let share = |engine: &str| {
        let row = answer["data"]
            .as_array()?
            .iter()
            .find(|row| row["pod_ip"] == engine)?;
        row["match_rate"].as_f64()
    };
    assert!(
        share(&candidates[0]).is_some_and(|share| share > 0.8),
        "{answer}"
    );
    assert_eq!(share(&candidates[1]), Some(0.0), "{answer}");
    assert_eq!(share(&candidates[2]), None, "{answer}");
}

async fn engine() -> EngineHandle {
    Engine::start(EngineConfig {
        block_size: 16,
        ..instant()
    })
    .await
    .expect("starts")
}

async fn ask_manager(question: &Value) -> Value {
    let args = TrialArgs {
        listen: ([127, 0, 0, 1], 0).into(),
    };
    let manager = TrialServer::start(&args).await.expect("starts");
    let (status, answer) = json_of(
        send(
            client()
                .post(format!("{}/match_sort", manager.url()))
                .json(question),
        )
        .await,
    )
    .await;
    assert_eq!(status, 200);
    answer
}
