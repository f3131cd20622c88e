//! Prefill rates are learned from observed requests and follow changes.

use futures::future::join_all;
use hermes_bench::fleet::{Fleet, Scene};
use hermes_engine_sim::{EngineConfig, Fault};
use serde_json::Value;

use super::harness::{complete, engine, explained, question, scene, text};

/// Waves of six concurrent requests without common prefixes.
async fn waves(fleet: &Fleet, name: &str, waves: usize) {
    let url = fleet.url();
    for wave in 0..waves {
        let prompt =
            |number: usize| text(&format!("{name} {wave}: user {number}"), 300 + 150 * number);
        let bodies: Vec<Value> = (0..6).map(|number| question(prompt(number))).collect();
        join_all(bodies.iter().map(|body| complete(&url, body))).await;
    }
}

/// Learned prefill rates in tokens a second, in the order of the fleet's engines.
async fn rates(fleet: &Fleet) -> Vec<f64> {
    let explanation = explained(&fleet.control_planes[0], 4_000).await;
    let candidates = explanation["queue"]["candidates"]
        .as_array()
        .expect("candidates")
        .clone();
    let rate = |address: String| {
        let candidate = candidates
            .iter()
            .find(|candidate| candidate["name"] == *address)
            .expect("the endpoint");
        candidate["rate"].as_f64().expect("a rate")
    };
    fleet
        .engines
        .iter()
        .map(|engine| rate(engine.addr().to_string()))
        .collect()
}

#[tokio::test]
async fn an_engine_that_slows_down_under_load_gets_fewer_requests() {
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
        "the engine computes 32,000: {before:?}"
    );
    fleet.engines[0].faults().set(Fault::Slow { factor: 8.0 });
    // It gets half of the requests at first, and a change of rate takes about 30 of its responses
    // to show. Pauses of a busy machine hide the difference for a while: then more waves follow.
    let (mut share, mut after) = (1.0, before);
    for round in 0..10 {
        waves(&fleet, &format!("meanwhile {round}"), 12).await;
        let sent = fleet.engines[0].stats().requests;
        waves(&fleet, &format!("after {round}"), 4).await;
        share = (fleet.engines[0].stats().requests - sent) as f64 / 24.0;
        after = rates(&fleet).await;
        if share < 0.3 && after[0] < 0.5 * after[1] {
            break;
        }
    }
    assert!(
        share < 0.3,
        "{share} of the requests, with a ninth of the speed: {after:?}"
    );
    assert!(after[0] < 0.5 * after[1], "{after:?}");
}
