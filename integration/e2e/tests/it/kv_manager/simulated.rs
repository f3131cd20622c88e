//! The simulated KV manager: its hits are correct for simulated engines, and it returns none for
//! other endpoints.

use hermes_bench::fleet::instant;
use hermes_bench::kv_manager::{KvManager, KvManagerArgs};
use hermes_engine_sim::{Engine, EngineConfig, EngineHandle};
use serde_json::{Value, json};

use crate::client::{ask, client, json_of, send};

#[tokio::test]
async fn the_simulated_manager_returns_the_hits_of_each_engine() {
    let (warm, cold) = (engine().await, engine().await);
    let messages = json!([{"role": "user", "content": "explain all routers ".repeat(400)}]);
    let body = json!({"model": "sim", "messages": messages, "max_tokens": 1});
    assert_eq!(send(ask(&warm.url(), &body)).await.status(), 200);

    // The last one has no listener.
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
    let args = KvManagerArgs {
        listen: ([127, 0, 0, 1], 0).into(),
    };
    let manager = KvManager::start(&args).await.expect("starts");
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
