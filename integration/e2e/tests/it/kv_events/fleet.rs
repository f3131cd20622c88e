//! KV events in a whole fleet: publishers discovered from engines, followed as configured, and
//! shown on the debug page.

use hermes_bench::fleet::{Fleet, Scene, instant};
use hermes_engine_sim::EngineConfig;
use serde_json::{Value, json};

use super::watched::publishing;
use crate::client::{ask, client, eventually, json_of, metric, send};

async fn fleet(engines: Vec<EngineConfig>) -> Fleet {
    let mut scene = Scene {
        engines,
        ..Scene::of(0, "kv-aware")
    };
    scene.pool.push_str("  kvEvents: {}\n");
    scene.start().await.expect("starts")
}

fn admin(fleet: &Fleet) -> String {
    format!(
        "http://{}",
        fleet.control_planes[0].bound.admin.expect("an admin port")
    )
}

async fn streams(admin: &str) -> Value {
    json_of(send(client().get(format!("{admin}/debug/kv-events"))).await)
        .await
        .1["chat"]["streams"]
        .clone()
}

#[tokio::test]
async fn publishers_are_discovered_from_engines_and_shown_on_the_debug_page() {
    // The third engine does not publish at all.
    let fleet = fleet(vec![publishing(1_000), publishing(1_000), instant()]).await;
    let admin = admin(&fleet);
    let whole = "hermes_kv_events_streams{pool=\"chat\",state=\"synced\"}";
    eventually("two streams work", || async {
        metric(&admin, whole).await == 2.0
    })
    .await;

    let message =
        json!({"role": "user", "content": "why does it rain on the just and the unjust alike?"});
    let body = json!({"model": "sim", "max_tokens": 1, "messages": [message]});
    for _ in 0..6 {
        assert_eq!(send(ask(&fleet.url(), &body)).await.status(), 200);
    }
    let url = format!("{}/tokenize", fleet.engines[0].url());
    let (_, tokenized) = json_of(send(client().post(url).json(&body)).await).await;
    let question = json!({"tokens": tokenized["tokens"]});
    let expected: Vec<usize> = fleet.engines[..2]
        .iter()
        .map(|engine| engine.stats().cached_blocks)
        .collect();
    eventually("the page knows who has it", || async {
        let url = format!("{admin}/debug/kv-events?pool=chat");
        let (_, answer) = json_of(send(client().post(url).json(&question)).await).await;
        let hits = answer["hits"].as_array().expect("hits").clone();
        let holding = hits.iter().filter(|hit| hit["cached"]["gpu"] != 0).count();
        hits.len() == 2 && holding == expected.iter().filter(|blocks| **blocks > 0).count()
    })
    .await;
    let rows = streams(&admin).await;
    let blocks: u64 = rows
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row["blocks"].as_u64().expect("a count"))
        .sum();
    assert_eq!(blocks, expected.iter().sum::<usize>() as u64);
    let failed = "hermes_kv_events_failures_total{pool=\"chat\",reason=\"no_address\"}";
    assert!(
        metric(&admin, failed).await > 0.0,
        "the third is looked for in vain"
    );
}

#[tokio::test]
async fn invalid_queries_of_the_page_are_rejected() {
    let fleet = fleet(vec![publishing(100)]).await;
    let page = format!("{}/debug/kv-events", admin(&fleet));
    let ask = |query: &str, body: Value| send(client().post(format!("{page}{query}")).json(&body));
    assert_eq!(ask("", json!({"tokens": [1]})).await.status(), 400);
    assert_eq!(
        ask("?pool=other", json!({"tokens": [1]})).await.status(),
        404
    );
    assert_eq!(
        ask("?pool=chat", json!({"tokens": "one"})).await.status(),
        400
    );
    assert_eq!(
        ask(
            "?pool=chat",
            json!({"tokens": [1], "adapter": "a", "salt": "s"})
        )
        .await
        .status(),
        200
    );
}
