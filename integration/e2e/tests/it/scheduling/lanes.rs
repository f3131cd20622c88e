//! Data-parallel ranks behind one address: lanes of one endpoint.

use futures::future::join_all;
use hermes_bench::fleet::{Fleet, Scene};
use hermes_engine_sim::{EngineConfig, Fault};
use serde_json::Value;

use super::harness::{
    await_queued, complete, engine, explained, question, requests, scene, send_in_background, text,
};
use crate::client::eventually;

/// One engine of eight ranks, whose metrics the control plane has read.
async fn fleet_of_one_engine(time_scale: f64) -> Fleet {
    let ranks = EngineConfig {
        data_parallel: 8,
        time_scale,
        ..engine()
    };
    let fleet = Scene {
        engines: vec![ranks],
        ..scene(0, "")
    }
    .start()
    .await
    .expect("starts");
    eventually("the ranks are counted", || async {
        candidate(&fleet).await["lanes"] == 8
    })
    .await;
    fleet
}

async fn candidate(fleet: &Fleet) -> Value {
    let explanation = explained(&fleet.control_planes[0], 4_000).await;
    explanation["queue"]["candidates"][0].clone()
}

#[tokio::test]
async fn each_rank_of_an_engine_gets_a_prompt_before_any_is_queued() {
    let fleet = fleet_of_one_engine(1.0).await;
    fleet.engines[0]
        .faults()
        .set_for(8, Fault::StallBeforeHeaders);
    let clients: Vec<_> = (0..10)
        .map(|number| {
            let body = question(text(&format!("user {number}"), 16_000));
            send_in_background(&fleet.url(), &body)
        })
        .collect();
    await_queued(&fleet, 2).await;
    eventually("eight were sent", || {
        std::future::ready(requests(&fleet) == 8)
    })
    .await;
    clients.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn the_learned_rate_of_an_engine_with_ranks_is_that_of_one_rank() {
    let fleet = fleet_of_one_engine(0.25).await;
    let url = fleet.url();
    for wave in 0..4 {
        let prompt = |number: usize| text(&format!("{wave}: user {number}"), 1_000 + 400 * number);
        let bodies: Vec<Value> = (0..8).map(|number| question(prompt(number))).collect();
        join_all(bodies.iter().map(|body| complete(&url, body))).await;
    }
    let rate = candidate(&fleet).await["rate"].as_f64().expect("a rate");
    assert!(
        (8_000.0..64_000.0).contains(&rate),
        "a rank computes 32,000: {rate}"
    );
}
