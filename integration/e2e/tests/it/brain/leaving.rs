//! Whoever leaves while requests wait: clients, proxies, pools, engines.

use std::path::Path;

use hermes_bench::fleet::{Fleet, Scene};
use hermes_engine_sim::Engine;

use super::stage::{Stall, asking, becomes, chosen_by, engine, fleet, requests, scene, short};
use crate::client::metric;

#[tokio::test]
async fn a_client_that_leaves_frees_its_place_and_no_engine_ever_sees_its_request() {
    let fleet = fleet(1, "  queue: {maxRequests: 1}\n").await;
    let plane = &fleet.control_planes[0];
    let stall = Stall::all(&fleet).await.remove(0);
    let leaving = asking(&fleet.url(), &short("leaves"));
    becomes(plane, "hermes_control_plane_queued_requests", 1.0).await;
    leaving.abort();
    becomes(plane, "hermes_control_plane_queued_requests", 0.0).await;
    let staying = asking(&fleet.url(), &short("stays"));
    becomes(plane, "hermes_control_plane_queued_requests", 1.0).await;
    stall.end();
    assert_eq!(staying.await.expect("answered"), 200);
    assert_eq!(requests(&fleet), 2);
    becomes(plane, "bookings", 0.0).await;
    assert_eq!(
        metric(
            &fleet.proxies[0].admin_url(),
            "hermes_queued_requests{pool=\"chat\"}"
        )
        .await,
        0.0
    );
}

#[tokio::test]
async fn a_proxy_that_dies_leaves_nobody_behind_in_the_queue() {
    let mut fleet = Scene {
        proxies: 2,
        ..scene(1, "")
    }
    .start()
    .await
    .expect("starts");
    let stall = Stall::all(&fleet).await.remove(0);
    let dying = fleet.proxies.remove(1);
    let abandoned: Vec<_> = (0..3)
        .map(|number| asking(&dying.url(), &short(&format!("leaves {number}"))))
        .collect();
    let staying = asking(&fleet.url(), &short("stays"));
    becomes(
        &fleet.control_planes[0],
        "hermes_control_plane_queued_requests",
        4.0,
    )
    .await;
    abandoned.iter().for_each(tokio::task::JoinHandle::abort);
    drop(dying);
    becomes(
        &fleet.control_planes[0],
        "hermes_control_plane_queued_requests",
        1.0,
    )
    .await;
    stall.end();
    assert_eq!(staying.await.expect("answered"), 200);
    assert_eq!(requests(&fleet), 2);
}

#[tokio::test]
async fn a_proxy_that_drains_stays_for_whoever_waits() {
    let mut fleet = Scene {
        proxies: 2,
        ..scene(1, "")
    }
    .start()
    .await
    .expect("starts");
    let stall = Stall::all(&fleet).await.remove(0);
    let leaving = fleet.proxies.remove(1);
    let waiting: Vec<_> = (0..3)
        .map(|number| asking(&leaving.url(), &short(&format!("waits {number}"))))
        .collect();
    becomes(
        &fleet.control_planes[0],
        "hermes_control_plane_queued_requests",
        3.0,
    )
    .await;
    leaving.terminate();
    stall.end();
    for answer in waiting {
        assert_eq!(answer.await.expect("answered"), 200);
    }
    leaving.stop().await;
    assert_eq!(requests(&fleet), 4);
}

#[tokio::test]
async fn an_engine_that_dies_costs_no_request_that_waits() {
    let fleet = fleet(2, "").await;
    let stalls = Stall::all(&fleet).await;
    let waiting: Vec<_> = (0..4)
        .map(|number| asking(&fleet.url(), &short(&format!("waits {number}"))))
        .collect();
    becomes(
        &fleet.control_planes[0],
        "hermes_control_plane_queued_requests",
        4.0,
    )
    .await;
    fleet.engines[0].kill().await;
    drop(stalls);
    for answer in waiting {
        assert_eq!(answer.await.expect("answered"), 200);
    }
    becomes(&fleet.control_planes[0], "bookings", 0.0).await;
}

/// One engine, in front of which planes follow a file.
async fn following(file: &Path) -> Fleet {
    Scene {
        file: Some(file.to_owned()),
        ..scene(1, "")
    }
    .start()
    .await
    .expect("starts")
}

#[tokio::test]
async fn who_waits_in_a_pool_that_is_taken_away_is_answered_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("hermes.yaml");
    let fleet = following(&file).await;
    let _stall = Stall::all(&fleet).await;
    let waiting = asking(&fleet.url(), &short("waits"));
    becomes(
        &fleet.control_planes[0],
        "hermes_control_plane_queued_requests",
        1.0,
    )
    .await;
    let other = "pools: [{name: other, endpoints: ['http://127.0.0.1:9']}]";
    std::fs::write(&file, other).expect("the file is written");
    // The proxy knew the pool when the request came, and chooses by itself.
    assert_eq!(waiting.await.expect("answered"), 200);
    assert_eq!(requests(&fleet), 2);
}

#[tokio::test]
async fn who_waits_goes_on_where_the_pool_is_given_another_engine() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("hermes.yaml");
    let fleet = following(&file).await;
    let another = Engine::start(engine()).await.expect("starts");
    let _stall = Stall::all(&fleet).await;
    let waiting: Vec<_> = (0..3)
        .map(|number| asking(&fleet.url(), &short(&format!("waits {number}"))))
        .collect();
    becomes(
        &fleet.control_planes[0],
        "hermes_control_plane_queued_requests",
        3.0,
    )
    .await;
    let moved = std::fs::read_to_string(&file)
        .expect("it was written")
        .replace(&fleet.engines[0].url(), &another.url());
    std::fs::write(&file, moved).expect("the file is written");
    for answer in waiting {
        assert_eq!(answer.await.expect("answered"), 200);
    }
    assert_eq!((requests(&fleet), another.stats().requests), (1, 3));
}

#[tokio::test]
async fn who_waits_is_bound_at_once_by_a_strategy_that_never_waits() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("hermes.yaml");
    let fleet = following(&file).await;
    let _stall = Stall::all(&fleet).await;
    let waiting: Vec<_> = (0..3)
        .map(|number| asking(&fleet.url(), &short(&format!("waits {number}"))))
        .collect();
    becomes(
        &fleet.control_planes[0],
        "hermes_control_plane_queued_requests",
        3.0,
    )
    .await;
    let changed = std::fs::read_to_string(&file)
        .expect("it was written")
        .replace("kv-aware", "round-robin");
    std::fs::write(&file, changed).expect("the file is written");
    for answer in waiting {
        assert_eq!(answer.await.expect("answered"), 200);
    }
    assert_eq!(chosen_by(&fleet.proxies, "score").await, 4.0);
}
