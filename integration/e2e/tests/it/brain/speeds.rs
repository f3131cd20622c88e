//! What engines can do is learned from what they do, and followed when it changes.

use futures::future::join_all;
use hermes_bench::fleet::{Fleet, Scene};
use hermes_engine_sim::{EngineConfig, Fault};
use serde_json::Value;

use super::stage::{answered, engine, explained, question, scene, text};

/// So many waves of six requests at once, none of which begins like another.
async fn waves(fleet: &Fleet, name: &str, waves: usize) {
    let url = fleet.url();
    for wave in 0..waves {
        let prompt =
            |number: usize| text(&format!("{name} {wave}: user {number}"), 300 + 150 * number);
        let bodies: Vec<Value> = (0..6).map(|number| question(prompt(number))).collect();
        join_all(bodies.iter().map(|body| answered(&url, body))).await;
    }
}

/// Prompt tokens a second, by the engine's place in the fleet, as the control plane has learned them.
async fn rates(fleet: &Fleet) -> Vec<f64> {
    let explanation = explained(&fleet.control_planes[0], 4_000).await;
    let sites = explanation["queue"]["candidates"]
        .as_array()
        .expect("sites")
        .clone();
    let rate = |address: String| {
        let site = sites
            .iter()
            .find(|site| site["name"] == *address)
            .expect("the endpoint");
        site["rate"].as_f64().expect("a rate")
    };
    fleet
        .engines
        .iter()
        .map(|engine| rate(engine.addr().to_string()))
        .collect()
}

#[tokio::test]
async fn an_engine_that_is_throttled_under_load_is_left_alone_for_the_other() {
    let quick = EngineConfig {
        time_scale: 0.25,
        ..engine()
    };
    let fleet = Scene {
        engines: vec![quick; 2],
        ..scene(0, "")
    }
    .start()
    .await
    .expect("starts");
    waves(&fleet, "before", 5).await;
    let before = rates(&fleet).await;
    assert!(
        before.iter().all(|rate| *rate > 12_000.0),
        "32,000 in truth: {before:?}"
    );
    fleet.engines[0].faults().set(Fault::Slow { factor: 8.0 });
    // Half of them come to it at first, and it takes some 30 of its answers to follow a change.
    waves(&fleet, "meanwhile", 12).await;
    let sent = fleet.engines[0].stats().requests;
    waves(&fleet, "after", 4).await;
    let share = (fleet.engines[0].stats().requests - sent) as f64 / 24.0;
    assert!(
        share < 0.3,
        "{share} of the requests, with a ninth of the speed: {:?}",
        rates(&fleet).await
    );
    let after = rates(&fleet).await;
    assert!(after[0] < 0.5 * after[1], "{after:?}");
}
