//! KV events in a whole fleet: publishers discovered from engines, followed as configured, and
//! shown on the debug page.

use std::{net::SocketAddr, path::Path};

use hermes_bench::fleet::{Fleet, Plane, Scene, control_plane_with, instant};
use hermes_control_plane::app::{ConfigSource, ControlPlane, Options};
use hermes_engine_sim::{Engine, EngineConfig, KvEventsConfig};
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
    // The rows follow the index.
    let expected = expected.iter().sum::<usize>() as u64;
    eventually("the page counts its blocks", || async {
        let rows = streams(&admin).await;
        let rows = rows.as_array().expect("rows").iter();
        let blocks = rows.map(|row| row["blocks"].as_u64().expect("a count"));
        blocks.sum::<u64>() == expected
    })
    .await;
    let failed = "hermes_kv_events_failures_total{pool=\"chat\",reason=\"no_address\"}";
    assert!(
        metric(&admin, failed).await > 0.0,
        "the third is looked for in vain"
    );
}

/// A replica that publishers can dial, and that shares what they say with these.
async fn replica(config: &Path, replicas: &[SocketAddr]) -> Plane<ControlPlane> {
    let options = Options {
        kv_events: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        kv_events_replicas: replicas.iter().map(SocketAddr::to_string).collect(),
        ..Options::local(ConfigSource::File(config.to_owned()))
    };
    control_plane_with(options).await.expect("starts")
}

#[tokio::test]
async fn replicas_share_the_events_of_an_engine_that_dials_one_of_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("hermes.yaml");
    let write = |url: &str| {
        let pool = format!("pools: [{{name: chat, endpoints: ['{url}'], kvEvents: {{}}}}]");
        std::fs::write(&file, pool).expect("written");
    };
    write("http://127.0.0.1:9");
    // It admits the other one by its address; the port is not looked at.
    let first = replica(&file, &[([127, 0, 0, 1], 9).into()]).await;
    let dialed = first.bound.kv_events[0];
    let second = replica(&file, &[dialed]).await;
    let config = EngineConfig {
        kv_events: Some(KvEventsConfig {
            connect: Some(dialed.to_string()),
            topic: "kv@{address}@sim".to_owned(),
            ..KvEventsConfig::default()
        }),
        ..publishing(1_000)
    };
    let engine = Engine::start(config).await.expect("starts");
    write(&engine.url());
    for (at, replica) in [&first, &second].into_iter().enumerate() {
        let admin = format!("http://{}", replica.bound.admin.expect("an admin port"));
        let asked = std::cell::Cell::new(at as u32 * 1_000);
        eventually("the engine's stream is synced", || async {
            asked.set(asked.get() + 1);
            let tokens = [vec![asked.get(); 8], vec![1]].concat();
            let body = json!({"model": "sim", "prompt": tokens, "max_tokens": 1});
            let url = format!("{}/v1/completions", engine.url());
            assert_eq!(send(client().post(url).json(&body)).await.status(), 200);
            let synced = "hermes_kv_events_streams{pool=\"chat\",state=\"synced\"}";
            metric(&admin, synced).await == 1.0
        })
        .await;
    }
    let admin = format!("http://{}", second.bound.admin.expect("an admin port"));
    assert_eq!(metric(&admin, "hermes_kv_events_replicas").await, 1.0);
    assert_eq!(metric(&admin, "hermes_kv_events_connections").await, 0.0);
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
