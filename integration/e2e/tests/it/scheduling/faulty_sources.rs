//! Faulty, silent and wrong cache and load sources degrade routing but never fail a request.

use std::collections::BTreeMap;

use futures::future::join_all;
use hermes_bench::fleet::{Fleet, Scene};
use hermes_engine_sim::kv_manager as kvmanager;
use hermes_engine_sim::kv_manager::KvManagerServer;
use hermes_engine_sim::{EngineConfig, Fault, KvEventsConfig};
use serde_json::Value;

use super::harness::{
    admin, all_answered, await_pool_metric, complete, engine, explained, pool_metric, predicted,
    prediction_error, question, scene, send_in_background, text, turn, turns, urls,
};
use crate::client::{client, eventually, json_of, metric, send};

/// The confidence in each source for the endpoint at this address: learned, KV manager, KV events.
async fn confidence(fleet: &Fleet, address: &str) -> Vec<f64> {
    let explanation = explained(&fleet.control_planes[0], 4_000).await;
    let candidates = explanation["queue"]["candidates"]
        .as_array()
        .expect("candidates")
        .clone();
    let candidate = candidates
        .into_iter()
        .find(|candidate| candidate["name"] == address)
        .expect("the endpoint");
    serde_json::from_value(candidate["confidence"].clone()).expect("three shares")
}

/// How many requests got a local error reply.
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

// === Engines that report no cached tokens ===

#[tokio::test]
async fn an_engine_that_reports_no_cached_tokens_keeps_the_confidence_that_its_counters_confirm() {
    let quick = EngineConfig {
        time_scale: 0.25,
        ..engine()
    };
    let silent = EngineConfig {
        prompt_tokens_details: false,
        ..quick.clone()
    };
    let scene = Scene {
        engines: vec![quick, silent],
        ..scene(0, "  metrics: {interval: 100ms}\n")
    };
    let fleet = scene.start().await.expect("starts");
    turns(&urls(&fleet), 0..16, 0..7).await;
    for engine in &fleet.engines {
        assert!(engine.stats().requests > 20, "both have conversations");
        let learned = confidence(&fleet, &engine.addr().to_string()).await[0];
        assert!(learned >= 0.95, "{learned} at {}", engine.addr());
    }
}

// === A KV manager ===

#[tokio::test]
async fn requests_are_routed_when_the_kv_manager_is_slow_faulty_or_gone() {
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
async fn confidence_in_a_kv_manager_drops_on_wrong_hits() {
    let faulty = KvManagerServer::start(|question: &kvmanager::Question| {
        let favorite = question.candidates.iter().min().cloned();
        favorite
            .into_iter()
            .map(|endpoint| (endpoint, 1.0))
            .collect()
    });
    let faulty = faulty.await.expect("a port");
    let quick = EngineConfig {
        time_scale: 0.25,
        ..engine()
    };
    let scene = scene(
        0,
        &format!(
            "  kvManager: {{url: '{}', lookupTimeout: 5s}}\n",
            faulty.url()
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
        let prompts =
            (0..8).map(|number| question(text(&format!("user {number} of wave {wave}"), 1_000)));
        let bodies: Vec<Value> = prompts.collect();
        join_all(bodies.iter().map(|body| complete(&url, body))).await;
    }
    let address = favorite.addr().to_string();
    eventually("the confidence has dropped", || async {
        confidence(&fleet, &address).await[1] < 0.3
    })
    .await;
    assert!(predicted(plane, "kv_manager", "expected").await > 1_000.0);
    assert_eq!(predicted(plane, "kv_manager", "reported").await, 0.0);
    assert!(prediction_error(plane, "kv_manager").await > 1_000.0);
    let before = favorite.stats().requests;
    let bodies: Vec<Value> = (0..9)
        .map(|number| question(text(&format!("late user {number}"), 400)))
        .collect();
    join_all(bodies.iter().map(|body| complete(&url, body))).await;
    assert!(
        favorite.stats().requests - before <= 6,
        "it is no longer preferred"
    );
}

// === KV events ===

/// An engine four times as fast as the others here, so that many turns take less time.
fn publishing() -> EngineConfig {
    EngineConfig {
        kv_events: Some(KvEventsConfig::default()),
        time_scale: 0.25,
        ..engine()
    }
}

/// A fleet of three engines with KV events, all streams synced.
async fn fleet_with_kv_events() -> Fleet {
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
async fn requests_are_routed_with_every_fault_of_kv_events() {
    let fleet = fleet_with_kv_events().await;
    let proxies = urls(&fleet);
    turn(&proxies, 0..6, 0).await;
    // On a busy machine a choice may be late and use no source.
    let mut next = 1;
    while predicted(&fleet.control_planes[0], "kv_events", "expected").await <= 6.0 * 1_400.0 {
        assert!(next < 10, "no expectation uses KV events");
        turn(&proxies, 0..6, next).await;
        next += 1;
    }
    let faults = [
        Fault::KvEventsDisconnect,
        Fault::KvEventsGarbage,
        Fault::KvEventsHideRemovals,
        Fault::KvEventsDrop,
        Fault::KvEventsMute,
    ];
    for (number, fault) in (next..).zip(faults) {
        fleet
            .engines
            .iter()
            .for_each(|engine| engine.faults().set(fault.clone()));
        let rate = turn(&proxies, 0..6, number).await.hit_rate();
        assert!(rate > 0.8, "{fault:?}: {rate}");
    }
}

#[tokio::test]
async fn confidence_in_a_publisher_drops_when_it_drops_its_events() {
    let fleet = fleet_with_kv_events().await;
    fleet
        .engines
        .iter()
        .for_each(|engine| engine.faults().set(Fault::KvEventsDrop));
    let proxies = urls(&fleet);
    // Conversations that happen to return to their engine show that the cache holds more than the
    // events report.
    turns(&proxies, 0..12, 0..12).await;
    // A single turn may still be estimated wrongly and cost one conversation its cache.
    let rate = turns(&proxies, 0..12, 12..24).await.hit_rate();
    assert!(rate > 0.95, "the learned index is used instead: {rate}");
}

// === Metrics of engines ===

async fn scraped_fleet() -> Fleet {
    scene(2, "  metrics: {interval: 1s, timeout: 500ms}\n")
        .start()
        .await
        .expect("starts")
}

/// Makes every engine report these metric values.
fn set_metric_values(fleet: &Fleet, values: &[(&str, f64)]) {
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

/// Waits until the control plane has a matching sample of every engine.
async fn await_samples(fleet: &Fleet, figure: &str, matches: impl Fn(&Value) -> bool) {
    let page = format!("{}/debug/snapshot", admin(&fleet.control_planes[0]));
    eventually("the faulty values are scraped", || async {
        let (_, page) = json_of(send(client().get(&page)).await).await;
        let endpoints = page["loads"][0]["endpoints"]
            .as_array()
            .expect("endpoints")
            .clone();
        endpoints
            .iter()
            .all(|endpoint| matches(&endpoint["load"]["sample"][figure]))
    })
    .await;
}

/// Sends concurrent requests and asserts that all are answered and none stays booked or queued.
async fn assert_all_served(fleet: &Fleet) {
    let url = fleet.url();
    let ask =
        |number: usize| send_in_background(&url, &question(text(&format!("user {number}"), 200)));
    let answers: Vec<_> = (0..24).map(ask).collect();
    all_answered(answers).await;
    assert_eq!(failures(fleet).await, 0.0);
    await_pool_metric(
        &fleet.control_planes[0],
        "hermes_control_plane_bookings",
        0.0,
    )
    .await;
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
async fn requests_succeed_when_all_engines_report_long_queues() {
    let fleet = scraped_fleet().await;
    set_metric_values(
        &fleet,
        &[
            ("vllm:num_requests_waiting", 1_000.0),
            ("vllm:num_requests_running", 1_000.0),
        ],
    );
    await_samples(&fleet, "waiting", |waiting| waiting == 1_000).await;
    assert_all_served(&fleet).await;
}

#[tokio::test]
async fn requests_succeed_when_all_engines_report_full_caches() {
    let fleet = scraped_fleet().await;
    set_metric_values(&fleet, &[("vllm:kv_cache_usage_perc", 1.0)]);
    await_samples(&fleet, "kv_usage", |usage| usage == 1.0).await;
    assert_all_served(&fleet).await;
}

#[tokio::test]
async fn requests_succeed_when_the_counters_of_all_engines_go_back() {
    let fleet = scraped_fleet().await;
    turn(&urls(&fleet), 0..4, 0).await;
    // Running requests are not used for routing: their number marks which of the faulty values were
    // scraped.
    let counters = |queries: f64, mark: f64| {
        [
            ("vllm:prefix_cache_queries_total", queries),
            ("vllm:num_requests_running", mark),
        ]
    };
    set_metric_values(&fleet, &counters(1e9, 7.0));
    await_samples(&fleet, "running", |running| running == 7).await;
    set_metric_values(&fleet, &counters(1.0, 8.0));
    await_pool_metric(&fleet.control_planes[0], "hermes_learned_index_blocks", 0.0).await;
    turn(&urls(&fleet), 0..4, 1).await;
    assert_all_served(&fleet).await;
}

#[tokio::test]
async fn requests_succeed_when_no_engine_reports_metrics() {
    let fleet = scraped_fleet().await;
    await_samples(&fleet, "waiting", |waiting| waiting == 0).await;
    for (engine, fault) in fleet
        .engines
        .iter()
        .zip([Fault::MetricsHang, Fault::MetricsGarbage])
    {
        engine.faults().set(fault);
    }
    assert_all_served(&fleet).await;
}
