//! Cache and load sources of the control plane: their effect on routing, and their faults.

use std::collections::BTreeMap;

use hermes_bench::fleet::{Fleet, Scene, instant};
use hermes_engine_sim::kv_manager as kvmanager;
use hermes_engine_sim::{EngineConfig, Fault};
use serde_json::Value;

use crate::{
    client::{ask, client, eventually, metric},
    conversation::{talk, turn},
};

/// Without `inFlight`, whose weight against cache hits would depend on the speed of the machine.
const CACHE_AND_QUEUE: &str = "{name: hermes-classic, weights: {inFlight: 0}}";

/// Four engines with small blocks, and a KV manager that tracks them.
async fn fleet() -> Fleet {
    let engine = EngineConfig {
        block_size: 16,
        ..instant()
    };
    let scene = Scene {
        engines: vec![engine; 4],
        kv_manager: true,
        ..Scene::of(0, CACHE_AND_QUEUE)
    };
    scene.start().await.expect("starts")
}

#[tokio::test]
async fn conversations_return_to_the_engine_that_caches_their_prefix() {
    let fleet = fleet().await;
    let (prompt, cached) = talk(&fleet, 6, 6).await;
    let (_, scattered) = {
        let engine = EngineConfig {
            block_size: 16,
            ..instant()
        };
        let scene = Scene {
            engines: vec![engine; 4],
            ..Scene::of(0, "random")
        };
        talk(&scene.start().await.expect("starts"), 6, 6).await
    };
    assert!(
        cached as f64 > 0.6 * prompt as f64,
        "hits: {cached} of {prompt} tokens"
    );
    assert!(cached > scattered, "kv-aware {cached}, random {scattered}");
}

#[tokio::test]
async fn no_fault_of_the_kv_manager_fails_a_request() {
    use kvmanager::Fault;
    for fault in [
        Fault::Status(500),
        Fault::Garbage,
        Fault::Empty,
        Fault::Refuse,
        Fault::Hang,
    ] {
        let mut fleet = fleet().await;
        fleet.kv_manager.as_ref().expect("one").set_fault(fault);
        let (prompt, _) = talk(&fleet, 2, 2).await;
        assert!(prompt > 0, "{fault:?}");
        fleet.kv_manager = None;
        talk(&fleet, 2, 1).await;
    }
}

#[tokio::test]
async fn a_disconnect_during_the_cache_lookup_cancels_the_score_request() {
    let fleet = fleet().await;
    let manager = fleet.kv_manager.as_ref().expect("one");
    manager.set_fault(kvmanager::Fault::Hang);
    let waiting = tokio::spawn(ask(&fleet.url(), &turn(0, 0)).send());
    eventually("the lookup has arrived", || async {
        manager.questions() == 1
    })
    .await;
    waiting.abort();
    let admin = format!(
        "http://{}",
        fleet.control_planes[0].bound.admin.expect("an admin port")
    );
    let cancelled = "hermes_control_plane_scores_total{pool=\"chat\",outcome=\"cancelled\"}";
    eventually("the score request is cancelled", || async {
        metric(&admin, cancelled).await == 1.0
    })
    .await;
    let bookings = "hermes_control_plane_bookings{pool=\"chat\"}";
    assert_eq!(metric(&admin, bookings).await, 0.0);
}

#[tokio::test]
async fn an_engine_with_a_long_queue_gets_no_requests() {
    let engines = vec![
        EngineConfig {
            block_size: 16,
            ..instant()
        };
        2
    ];
    let mut scene = Scene {
        engines,
        ..Scene::of(0, CACHE_AND_QUEUE)
    };
    scene.pool.push_str("  metrics: {interval: 1s}\n");
    let fleet = scene.start().await.expect("starts");
    let values = BTreeMap::from([("vllm:num_requests_waiting".to_owned(), 50.0)]);
    fleet.engines[0]
        .faults()
        .set(Fault::MetricsValues { values });
    // Both must have reported: an engine without a sample counts as the mean of the others.
    await_loads(&fleet, |loads| {
        let waiting: Vec<Option<u64>> = loads
            .iter()
            .map(|load| load["sample"]["waiting"].as_u64())
            .collect();
        waiting.contains(&Some(50)) && waiting.contains(&Some(0))
    })
    .await;
    talk(&fleet, 8, 1).await;
    assert_eq!(fleet.engines[0].stats().requests, 0);
}

#[tokio::test]
async fn metric_values_out_of_range_are_ignored() {
    let mut scene = Scene::of(2, "kv-aware");
    scene.pool.push_str("  metrics: {interval: 1s}\n");
    let fleet = scene.start().await.expect("starts");
    let values = BTreeMap::from([("vllm:kv_cache_usage_perc".to_owned(), 7.5)]);
    fleet.engines[0]
        .faults()
        .set(Fault::MetricsValues { values });
    await_loads(&fleet, |loads| {
        loads
            .iter()
            .filter(|load| load["sample"]["kv_usage"].is_null())
            .count()
            == 1
    })
    .await;
    talk(&fleet, 2, 2).await;
}

#[tokio::test]
async fn failing_scrapes_disable_the_load_signal_and_fail_no_request() {
    let mut scene = Scene::of(2, "kv-aware");
    scene
        .pool
        .push_str("  metrics: {interval: 1s, timeout: 500ms, staleAfter: 2s}\n");
    let fleet = scene.start().await.expect("starts");
    await_loads(&fleet, |loads| {
        loads.iter().all(|load| !load["sample"].is_null())
    })
    .await;
    let faults = [Fault::MetricsHang, Fault::MetricsGarbage];
    for (engine, fault) in fleet.engines.iter().zip(faults) {
        engine.faults().set(fault);
    }
    await_loads(&fleet, |loads| {
        loads.iter().all(|load| load["sample"].is_null())
    })
    .await;
    talk(&fleet, 4, 2).await;
}

/// Waits until the proxy's load rows match.
async fn await_loads(fleet: &Fleet, matches: impl Fn(&[Value]) -> bool) {
    let url = format!("{}/debug/snapshot", fleet.proxies[0].admin_url());
    eventually("the proxy's load rows", || async {
        let page: Value = client()
            .get(&url)
            .send()
            .await
            .expect("answers")
            .json()
            .await
            .expect("JSON");
        let rows = page["pools"][0]["endpoints"]
            .as_array()
            .expect("rows")
            .clone();
        let loads: Vec<Value> = rows.into_iter().map(|row| row["load"].clone()).collect();
        matches(&loads)
    })
    .await;
}
