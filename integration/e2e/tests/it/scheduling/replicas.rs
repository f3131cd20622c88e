//! Several control planes: one owns a pool until it dies; two owners at once degrade routing but
//! fail no request.

use std::{net::SocketAddr, sync::Arc};

use futures::future::join;
use hermes_bench::fleet;
use hermes_bench::fleet::{Fleet, Plane, Scene};
use hermes_control_plane::app::Options;
use hermes_core::rendezvous::owner;

use super::harness::{
    Stall, all_answered, await_pool_metric, await_queued, chosen_by, pool_metric, question,
    requests, scene, send_in_background, text, turn, turns, urls,
};
use crate::{
    client::eventually,
    proxy_context::{await_connected, await_discovered},
};

/// A fleet with two proxies and two control planes, and the index of the one that owns the pool.
async fn replicated_fleet(engines: usize) -> (Fleet, usize) {
    let scene = Scene {
        control_planes: 2,
        proxies: 2,
        ..scene(engines, "")
    };
    let fleet = scene.start().await.expect("starts");
    for proxy in &fleet.proxies {
        await_discovered(proxy, 2).await;
    }
    let names: Vec<&str> = fleet
        .control_planes
        .iter()
        .map(|plane| &*plane.bound.replica)
        .collect();
    let owner = owner("chat", names.iter().copied()).expect("one of them");
    let owner = names
        .iter()
        .position(|name| *name == owner)
        .expect("it is one of them");
    (fleet, owner)
}

#[tokio::test]
async fn when_the_owner_dies_under_load_no_request_fails_and_the_successor_has_its_history() {
    let (mut fleet, owner) = replicated_fleet(4).await;
    let proxies = urls(&fleet);
    turns(&proxies, 0..6, 0..3).await;
    let learned = pool_metric(&fleet.control_planes[owner], "hermes_learned_index_blocks").await;
    assert_eq!(
        pool_metric(
            &fleet.control_planes[1 - owner],
            "hermes_learned_index_blocks"
        )
        .await,
        0.0,
        "only the owner learns"
    );
    let before = chosen_by(&fleet.proxies, "score").await;
    let dying = fleet.control_planes.remove(owner);
    let successor = &fleet.control_planes[0];
    let dies = async {
        eventually("the load runs", || async {
            pool_metric(&dying, "hermes_control_plane_bookings").await > 0.0
        })
        .await;
        drop(dying);
    };
    let (during, ()) = join(turns(&proxies, 0..6, 3..6), dies).await;
    assert!(during.hit_rate() > 0.85, "{during:?}");
    for proxy in &fleet.proxies {
        await_connected(proxy, 1.0).await;
    }
    assert!(pool_metric(successor, "hermes_learned_index_blocks").await >= learned);
    let after = turn(&proxies, 0..6, 6).await.hit_rate();
    assert!(after > 0.97, "{after}");
    assert!(chosen_by(&fleet.proxies, "score").await >= before + 6.0);
    await_pool_metric(successor, "hermes_control_plane_bookings", 0.0).await;
}

#[tokio::test]
async fn queued_requests_move_to_the_successor_when_the_owner_dies() {
    let (mut fleet, owner) = replicated_fleet(1).await;
    let stall = Stall::all(&fleet).await.remove(0);
    let ask = |number: usize| {
        let proxy = &fleet.proxies[number % 2];
        send_in_background(
            &proxy.url(),
            &question(text(&format!("user {number}"), 400)),
        )
    };
    let waiting: Vec<_> = (0..6).map(ask).collect();
    await_pool_metric(
        &fleet.control_planes[owner],
        "hermes_control_plane_queued_requests",
        6.0,
    )
    .await;
    assert_eq!(
        pool_metric(
            &fleet.control_planes[1 - owner],
            "hermes_control_plane_queued_requests"
        )
        .await,
        0.0
    );
    drop(fleet.control_planes.remove(owner));
    await_queued(&fleet, 6).await;
    assert_eq!(
        requests(&fleet),
        1,
        "no queued request was sent to the engine"
    );
    stall.end();
    all_answered(waiting).await;
    assert_eq!(chosen_by(&fleet.proxies, "score").await, 7.0);
}

#[tokio::test]
async fn a_returning_owner_gets_the_history_before_its_first_score_request() {
    let (mut fleet, owner) = replicated_fleet(4).await;
    let proxies = urls(&fleet);
    turns(&proxies, 0..6, 0..2).await;
    let Plane { bound, .. } = &fleet.control_planes[owner];
    let (listen, name) = (bound.grpc, Arc::clone(&bound.replica));
    drop(fleet.control_planes.remove(owner));
    for proxy in &fleet.proxies {
        await_connected(proxy, 1.0).await;
    }
    turns(&proxies, 0..6, 2..4).await;
    let learned = pool_metric(&fleet.control_planes[0], "hermes_learned_index_blocks").await;

    let again = Options {
        listen,
        replica: Some(name),
        ..Options::local(fleet.config.clone())
    };
    let again = fleet::control_plane_with(again)
        .await
        .expect("the port is free again");
    eventually("the history is replayed", || async {
        pool_metric(&again, "hermes_learned_index_blocks").await >= learned
    })
    .await;
    let back = turn(&proxies, 0..6, 4).await.hit_rate();
    assert!(back > 0.97, "{back}");
    let successor = &fleet.control_planes[0];
    assert_eq!(
        pool_metric(successor, "hermes_learned_index_blocks").await,
        learned,
        "it gets no more score requests"
    );
    await_pool_metric(&again, "hermes_control_plane_bookings", 0.0).await;
    await_pool_metric(successor, "hermes_control_plane_bookings", 0.0).await;
}

#[tokio::test]
async fn two_owners_at_once_fail_no_request() {
    let mut fleet = Scene {
        control_planes: 2,
        proxies: 0,
        ..scene(3, "")
    }
    .start()
    .await
    .expect("starts");
    let addresses: Vec<SocketAddr> = fleet
        .control_planes
        .iter()
        .map(|plane| plane.bound.grpc)
        .collect();
    for address in addresses {
        // Each proxy is connected to one control plane, which therefore owns every pool.
        let proxy = fleet::proxy(&[address]).await.expect("starts");
        proxy.bound.readiness.ready().await;
        fleet.proxies.push(proxy);
    }
    let usage = turns(&urls(&fleet), 0..8, 0..5).await;
    assert!(usage.hit_rate() > 0.5, "{usage:?}");
    for plane in &fleet.control_planes {
        assert!(
            pool_metric(plane, "hermes_learned_index_blocks").await > 0.0,
            "both scored"
        );
        await_pool_metric(plane, "hermes_control_plane_bookings", 0.0).await;
        await_queued(&fleet, 0).await;
    }
    assert_eq!(chosen_by(&fleet.proxies, "score").await, 40.0);
}
