//! The brain dies, and comes back knowing nothing.

use hermes_bench::fleet;
use hermes_bench::fleet::Scene;

use super::stage::{
    Stall, asking, becomes, chosen_by, fleet, pool_metric, question, requests, scene, text, turn,
    turns, urls,
};
use crate::world::follows;

#[tokio::test]
async fn when_the_brain_dies_whoever_waits_is_served_without_it() {
    let mut fleet = fleet(2, "").await;
    let _stalls = Stall::all(&fleet).await;
    let waiting: Vec<_> = (0..6)
        .map(|number| {
            asking(
                &fleet.url(),
                &question(text(&format!("user {number}"), 400)),
            )
        })
        .collect();
    becomes(
        &fleet.control_planes[0],
        "hermes_control_plane_queued_requests",
        6.0,
    )
    .await;
    fleet.control_planes.clear();
    for answer in waiting {
        assert_eq!(answer.await.expect("answered"), 200);
    }
    assert_eq!(chosen_by(&fleet.proxies, "local").await, 6.0);
    assert!(
        fleet
            .engines
            .iter()
            .all(|engine| engine.stats().requests >= 3),
        "they did not herd: {}",
        requests(&fleet)
    );
}

#[tokio::test]
async fn a_brain_that_drains_lets_go_of_whoever_waits() {
    let mut fleet = fleet(1, "").await;
    let _stalls = Stall::all(&fleet).await;
    let waiting: Vec<_> = (0..3)
        .map(|number| {
            asking(
                &fleet.url(),
                &question(text(&format!("user {number}"), 400)),
            )
        })
        .collect();
    becomes(
        &fleet.control_planes[0],
        "hermes_control_plane_queued_requests",
        3.0,
    )
    .await;
    fleet.control_planes.remove(0).stop().await;
    for answer in waiting {
        assert_eq!(answer.await.expect("answered"), 200);
    }
}

#[tokio::test]
async fn a_brain_that_comes_back_is_taught_and_conversations_go_on_where_they_were() {
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
        follows(proxy, 0.0).await;
    }
    let without = turn(&proxies, 0..6, 3).await.hit_rate();
    // Each proxy remembers only its own choices, and every conversation moves from one to the other.
    assert!(without > 0.8, "{without}");

    let again = fleet::control_plane_at(fleet.config.clone(), address)
        .await
        .expect("the port is free again");
    fleet.control_planes.push(again);
    for proxy in &fleet.proxies {
        follows(proxy, 1.0).await;
    }
    let scored = chosen_by(&fleet.proxies, "score").await;
    crate::client::eventually("the brain is taught", || async {
        pool_metric(&fleet.control_planes[0], "hermes_learned_index_blocks").await >= learned
    })
    .await;
    let back = turn(&proxies, 0..6, 4).await.hit_rate();
    assert!(back > 0.97, "{back}");
    assert_eq!(chosen_by(&fleet.proxies, "score").await, scored + 6.0);
}
