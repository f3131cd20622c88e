//! The control plane dies, drains, and restarts with an empty index.

use hermes_bench::fleet;
use hermes_bench::fleet::Scene;

use super::harness::{
    Stall, all_answered, await_queued, chosen_by, fleet, pool_metric, question, requests, scene,
    send_in_background, text, turn, turns, urls,
};
use crate::proxy_context::await_connected;

#[tokio::test]
async fn queued_requests_are_routed_by_the_proxy_when_the_control_plane_dies() {
    let mut fleet = fleet(2, "").await;
    let _stalls = Stall::all(&fleet).await;
    let waiting: Vec<_> = (0..6)
        .map(|number| {
            send_in_background(
                &fleet.url(),
                &question(text(&format!("user {number}"), 400)),
            )
        })
        .collect();
    await_queued(&fleet, 6).await;
    fleet.control_planes.clear();
    all_answered(waiting).await;
    assert_eq!(chosen_by(&fleet.proxies, "local").await, 6.0);
    assert!(
        fleet
            .engines
            .iter()
            .all(|engine| engine.stats().requests >= 3),
        "requests are spread over the engines: {}",
        requests(&fleet)
    );
}

#[tokio::test]
async fn a_draining_control_plane_releases_its_queued_requests() {
    let mut fleet = fleet(1, "").await;
    let _stalls = Stall::all(&fleet).await;
    let waiting: Vec<_> = (0..3)
        .map(|number| {
            send_in_background(
                &fleet.url(),
                &question(text(&format!("user {number}"), 400)),
            )
        })
        .collect();
    await_queued(&fleet, 3).await;
    fleet.control_planes.remove(0).stop().await;
    all_answered(waiting).await;
}

#[tokio::test]
async fn a_restarted_control_plane_gets_the_history_and_conversations_return_to_their_engines() {
    let mut fleet = Scene {
        proxies: 2,
        ..scene(4, "")
    }
    .start()
    .await
    .expect("starts");
    let (address, proxies) = (fleet.control_planes[0].bound.grpc, urls(&fleet));
    turns(&proxies, 0..6, 0..3).await;
    let learned = pool_metric(&fleet.control_planes[0], "hermes_learned_index_blocks").await;
    assert!(learned > 6.0 * 20.0);
    fleet.control_planes.clear();
    for proxy in &fleet.proxies {
        await_connected(proxy, 0.0).await;
    }
    let without = turn(&proxies, 0..6, 3).await.hit_rate();
    // Each proxy has only its own routing history, and every conversation alternates between
    // proxies.
    assert!(without > 0.8, "{without}");

    let again = fleet::control_plane_at(fleet.config.clone(), address)
        .await
        .expect("the port is free again");
    fleet.control_planes.push(again);
    for proxy in &fleet.proxies {
        await_connected(proxy, 1.0).await;
    }
    let scored = chosen_by(&fleet.proxies, "score").await;
    crate::client::eventually("the history is replayed", || async {
        pool_metric(&fleet.control_planes[0], "hermes_learned_index_blocks").await >= learned
    })
    .await;
    let back = turn(&proxies, 0..6, 4).await.hit_rate();
    assert!(back > 0.97, "{back}");
    assert_eq!(chosen_by(&fleet.proxies, "score").await, scored + 6.0);
}
