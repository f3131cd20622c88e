//! Those who tell of caches and of load fail, fall silent and lie, while requests come: that costs quality, and no
//! request.

use std::collections::BTreeMap;

use futures::future::join_all;
use hermes_bench::fleet::{Fleet, Scene};
use hermes_engine_sim::kv_manager as kvmanager;
use hermes_engine_sim::kv_manager::KvManagerServer;
use hermes_engine_sim::{EngineConfig, Fault, KvEventsConfig};
use serde_json::Value;

use super::stage::{
    admin, answered, asking, becomes, engine, explained, pool_metric, predicted, prediction_error,
    question, scene, text, turn, turns, urls,
};
use crate::client::{client, eventually, json_of, metric, send};

/// How far one source is believed, of the endpoint of this address: learned, manager, events.
async fn trust(fleet: &Fleet, address: &str) -> Vec<f64> {
    let explanation = explained(&fleet.control_planes[0], 4_000).await;
    let sites = explanation["queue"]["candidates"]
        .as_array()
        .expect("sites")
        .clone();
    let site = sites
        .into_iter()
        .find(|site| site["name"] == address)
        .expect("the endpoint");
    serde_json::from_value(site["confidence"].clone()).expect("three shares")
}

/// How many requests of the pool ended other than well.
async fn failures(fleet: &Fleet) -> f64 {
    let mut failed = 0.0;
    for code in [
        "queue_full",
        "queue_timeout",
        "no_healthy_upstream",
        "upstream_failed",
        "upstream_timeout",
    ] {
        failed += metric(
            &fleet.proxies[0].admin_url(),
            &format!("hermes_local_replies_total{{code=\"{code}\"}}"),
        )
        .await;
    }
    failed
}

// === A KV manager ===

#[tokio::test]
async fn a_kv_manager_that_is_slow_broken_or_gone_is_done_without() {
    use kvmanager::Fault;
    let mut scene = scene(
        3,
        "  kvManager: {url: 'URL', lookupTimeout: 100ms, cacheTtl: 0s}\n",
    );
    let manager = KvManagerServer::start(|_| Vec::new())
        .await
        .expect("a port");
    scene.pool = scene.pool.replace("URL", &manager.url());
    let fleet = scene.start().await.expect("starts");
    let faults = [
        Fault::None,
        Fault::Slow(std::time::Duration::from_secs(60)),
        Fault::Status(500),
        Fault::Garbage,
        Fault::Refuse,
        Fault::Hang,
    ];
    let proxies = urls(&fleet);
    turn(&proxies, 0..6, 0).await;
    for (number, fault) in (1..).zip(faults) {
        manager.set_fault(fault);
        let rate = turn(&proxies, 0..6, number).await.hit_rate();
        assert!(rate > 0.97, "{fault:?}: {rate}");
    }
    drop(manager);
    let rate = turn(&proxies, 0..6, 7).await.hit_rate();
    assert!(rate > 0.97, "gone: {rate}");
}

#[tokio::test]
async fn a_kv_manager_that_lies_is_believed_less_and_less() {
    let liar = KvManagerServer::start(|question: &kvmanager::Question| {
        let favorite = question.candidates.iter().min().cloned();
        favorite
            .into_iter()
            .map(|endpoint| (endpoint, 1.0))
            .collect()
    });
    let liar = liar.await.expect("a port");
    let quick = EngineConfig {
        time_scale: 0.25,
        ..engine()
    };
    let scene = scene(
        0,
        &format!(
            "  kvManager: {{url: '{}', lookupTimeout: 5s}}\n",
            liar.url()
        ),
    );
    let fleet = Scene {
        engines: vec![quick; 3],
        ..scene
    }
    .start()
    .await
    .expect("starts");
    let (url, plane) = (fleet.url(), &fleet.control_planes[0]);
    let favorite = fleet
        .engines
        .iter()
        .min_by_key(|engine| engine.addr().to_string())
        .expect("an engine");
    for wave in 0..5 {
        let asked =
            (0..8).map(|number| question(text(&format!("user {number} of wave {wave}"), 1_000)));
        let bodies: Vec<Value> = asked.collect();
        join_all(bodies.iter().map(|body| answered(&url, body))).await;
    }
    let believed = favorite.addr().to_string();
    eventually("it has lost its word", || async {
        trust(&fleet, &believed).await[1] < 0.3
    })
    .await;
    assert!(predicted(plane, "kv_manager", "expected").await > 1_000.0);
    assert_eq!(predicted(plane, "kv_manager", "reported").await, 0.0);
    assert!(prediction_error(plane, "kv_manager").await > 1_000.0);
    let before = favorite.stats().requests;
    let bodies: Vec<Value> = (0..9)
        .map(|number| question(text(&format!("late user {number}"), 400)))
        .collect();
    join_all(bodies.iter().map(|body| answered(&url, body))).await;
    assert!(
        favorite.stats().requests - before <= 6,
        "it is no favorite any more"
    );
}

// === KV events ===

/// An engine four times as fast as the others here, so that many turns take little time.
fn publishing() -> EngineConfig {
    EngineConfig {
        kv_events: Some(KvEventsConfig::default()),
        time_scale: 0.25,
        ..engine()
    }
}

/// Three engines whose KV events are followed.
async fn watched() -> Fleet {
    let mut scene = Scene {
        engines: vec![publishing(); 3],
        ..scene(0, "  kvEvents: {}\n")
    };
    scene
        .pool
        .push_str("  tokenizer: {engine: true, timeout: 5s}\n");
    let fleet = scene.start().await.expect("starts");
    let whole = "hermes_kv_events_streams{pool=\"chat\",state=\"synced\"}";
    eventually("all streams work", || async {
        metric(&admin(&fleet.control_planes[0]), whole).await == 3.0
    })
    .await;
    fleet
}

#[tokio::test]
async fn kv_events_that_fail_in_any_way_are_done_without() {
    let fleet = watched().await;
    let proxies = urls(&fleet);
    turn(&proxies, 0..6, 0).await;
    turn(&proxies, 0..6, 1).await;
    eventually("what events say is believed", || async {
        predicted(&fleet.control_planes[0], "kv_events", "expected").await > 6.0 * 1_400.0
    })
    .await;
    let faults = [
        Fault::KvEventsDisconnect,
        Fault::KvEventsGarbage,
        Fault::KvEventsHideRemovals,
        Fault::KvEventsDrop,
        Fault::KvEventsMute,
    ];
    for (number, fault) in (2..).zip(faults) {
        fleet
            .engines
            .iter()
            .for_each(|engine| engine.faults().set(fault.clone()));
        let rate = turn(&proxies, 0..6, number).await.hit_rate();
        assert!(rate > 0.8, "{fault:?}: {rate}");
    }
}

#[tokio::test]
async fn a_publisher_that_says_nothing_of_what_it_stores_loses_its_word() {
    let fleet = watched().await;
    fleet
        .engines
        .iter()
        .for_each(|engine| engine.faults().set(Fault::KvEventsDrop));
    let proxies = urls(&fleet);
    // Who happens to come back to where it was shows that the cache holds more than is said.
    turns(&proxies, 0..12, 0..12).await;
    // A single turn may still be believed wrongly, and costs one conversation its cache.
    let rate = turns(&proxies, 0..12, 12..24).await.hit_rate();
    assert!(
        rate > 0.95,
        "what was sent where is known all the same: {rate}"
    );
}

// === Figures of engines ===

async fn scraped() -> Fleet {
    scene(2, "  metrics: {interval: 1s, timeout: 500ms}\n")
        .start()
        .await
        .expect("starts")
}

/// From now on every engine gives these figures, whatever is true.
fn lie(fleet: &Fleet, values: &[(&str, f64)]) {
    let values: BTreeMap<String, f64> = values
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value))
        .collect();
    for engine in &fleet.engines {
        engine.faults().set(Fault::MetricsValues {
            values: values.clone(),
        });
    }
}

/// Waits until the control plane has these figures of every engine.
async fn believes(fleet: &Fleet, figure: &str, holds: impl Fn(&Value) -> bool) {
    let page = format!("{}/debug/snapshot", admin(&fleet.control_planes[0]));
    eventually("the lies are believed", || async {
        let (_, page) = json_of(send(client().get(&page)).await).await;
        let endpoints = page["loads"][0]["endpoints"]
            .as_array()
            .expect("endpoints")
            .clone();
        endpoints
            .iter()
            .all(|endpoint| holds(&endpoint["load"]["sample"][figure]))
    })
    .await;
}

/// Many requests at once, all of which must be answered.
async fn serves(fleet: &Fleet) {
    let url = fleet.url();
    let ask = |number: usize| asking(&url, &question(text(&format!("user {number}"), 200)));
    let answers: Vec<_> = (0..24).map(ask).collect();
    for answer in answers {
        assert_eq!(answer.await.expect("answered"), 200);
    }
    assert_eq!(failures(fleet).await, 0.0);
    becomes(&fleet.control_planes[0], "bookings", 0.0).await;
    assert_eq!(
        pool_metric(
            &fleet.control_planes[0],
            "hermes_control_plane_queued_requests"
        )
        .await,
        0.0
    );
}

#[tokio::test]
async fn engines_that_all_claim_long_queues_are_served_all_the_same() {
    let fleet = scraped().await;
    lie(
        &fleet,
        &[
            ("vllm:num_requests_waiting", 1_000.0),
            ("vllm:num_requests_running", 1_000.0),
        ],
    );
    believes(&fleet, "waiting", |waiting| waiting == 1_000).await;
    serves(&fleet).await;
}

#[tokio::test]
async fn engines_that_all_claim_full_memories_are_served_all_the_same() {
    let fleet = scraped().await;
    lie(&fleet, &[("vllm:kv_cache_usage_perc", 1.0)]);
    believes(&fleet, "kv_usage", |usage| usage == 1.0).await;
    serves(&fleet).await;
}

#[tokio::test]
async fn engines_whose_counters_seem_to_restart_are_served_all_the_same() {
    let fleet = scraped().await;
    turn(&urls(&fleet), 0..4, 0).await;
    // Nothing goes by the requests that run: the figure says which lie has been heard.
    let counters = |queries: f64, mark: f64| {
        [
            ("vllm:prefix_cache_queries_total", queries),
            ("vllm:num_requests_running", mark),
        ]
    };
    lie(&fleet, &counters(1e9, 7.0));
    believes(&fleet, "running", |running| running == 7).await;
    lie(&fleet, &counters(1.0, 8.0));
    becomes(&fleet.control_planes[0], "hermes_learned_index_blocks", 0.0).await;
    turn(&urls(&fleet), 0..4, 1).await;
    serves(&fleet).await;
}

#[tokio::test]
async fn engines_that_give_no_figures_are_served_all_the_same() {
    let fleet = scraped().await;
    believes(&fleet, "waiting", |waiting| waiting == 0).await;
    for (engine, fault) in fleet
        .engines
        .iter()
        .zip([Fault::MetricsHang, Fault::MetricsGarbage])
    {
        engine.faults().set(fault);
    }
    serves(&fleet).await;
}
