//! Clients, proxies, pools and engines that go away while requests are queued.

use std::path::Path;

use hermes_bench::fleet::{Fleet, Scene};
use hermes_engine_sim::Engine;

use super::harness::{
    Stall, all_answered, await_pool_metric, await_queued, chosen_by, engine, fleet, requests,
    scene, send_in_background, send_several, short,
};
use crate::{client::metric, endpoint_tls::front::TlsFront, tls::authority::Authority};

#[tokio::test]
async fn a_client_that_disconnects_while_queued_frees_its_slot_and_its_request_reaches_no_engine() {
    let fleet = fleet(1, "  queue: {maxRequests: 1}\n").await;
    let plane = &fleet.control_planes[0];
    let stall = Stall::all(&fleet).await.remove(0);
    let leaving = send_in_background(&fleet.url(), &short("leaves"));
    await_queued(&fleet, 1).await;
    leaving.abort();
    await_queued(&fleet, 0).await;
    let staying = send_in_background(&fleet.url(), &short("stays"));
    await_queued(&fleet, 1).await;
    stall.end();
    assert_eq!(staying.await.expect("answered"), 200);
    assert_eq!(requests(&fleet), 2);
    await_pool_metric(plane, "hermes_control_plane_bookings", 0.0).await;
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
async fn a_proxy_that_dies_leaves_no_request_in_the_queue() {
    let mut fleet = Scene {
        proxies: 2,
        ..scene(1, "")
    }
    .start()
    .await
    .expect("starts");
    let stall = Stall::all(&fleet).await.remove(0);
    let dying = fleet.proxies.remove(1);
    let abandoned = send_several(&dying.url(), 3, "leaves");
    let staying = send_in_background(&fleet.url(), &short("stays"));
    await_queued(&fleet, 4).await;
    abandoned.iter().for_each(tokio::task::JoinHandle::abort);
    drop(dying);
    await_queued(&fleet, 1).await;
    stall.end();
    assert_eq!(staying.await.expect("answered"), 200);
    assert_eq!(requests(&fleet), 2);
}

#[tokio::test]
async fn a_draining_proxy_completes_its_queued_requests() {
    let mut fleet = Scene {
        proxies: 2,
        ..scene(1, "")
    }
    .start()
    .await
    .expect("starts");
    let stall = Stall::all(&fleet).await.remove(0);
    let leaving = fleet.proxies.remove(1);
    let waiting = send_several(&leaving.url(), 3, "waits");
    await_queued(&fleet, 3).await;
    leaving.terminate();
    stall.end();
    all_answered(waiting).await;
    leaving.stop().await;
    assert_eq!(requests(&fleet), 4);
}

#[tokio::test]
async fn queued_requests_survive_the_death_of_an_engine() {
    let fleet = fleet(2, "").await;
    let stalls = Stall::all(&fleet).await;
    let waiting = send_several(&fleet.url(), 4, "waits");
    await_queued(&fleet, 4).await;
    fleet.engines[0].kill().await;
    drop(stalls);
    all_answered(waiting).await;
    await_pool_metric(
        &fleet.control_planes[0],
        "hermes_control_plane_bookings",
        0.0,
    )
    .await;
}

/// One engine, with planes that read their configuration from a file.
async fn fleet_from_file(file: &Path) -> Fleet {
    Scene {
        file: Some(file.to_owned()),
        ..scene(1, "")
    }
    .start()
    .await
    .expect("starts")
}

#[tokio::test]
async fn requests_queued_in_a_removed_pool_are_routed_by_the_proxy_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("hermes.yaml");
    let fleet = fleet_from_file(&file).await;
    let _stall = Stall::all(&fleet).await;
    let waiting = send_in_background(&fleet.url(), &short("waits"));
    await_queued(&fleet, 1).await;
    let other = "pools: [{name: other, endpoints: ['http://127.0.0.1:9']}]";
    std::fs::write(&file, other).expect("the file is written");
    // The proxy had the pool when the request arrived, and selects an endpoint itself.
    assert_eq!(waiting.await.expect("answered"), 200);
    assert_eq!(requests(&fleet), 2);
}

#[tokio::test]
async fn queued_requests_go_to_the_engine_that_replaces_the_pools_engine() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("hermes.yaml");
    let fleet = fleet_from_file(&file).await;
    let another = Engine::start(engine()).await.expect("starts");
    let _stall = Stall::all(&fleet).await;
    let waiting = send_several(&fleet.url(), 3, "waits");
    await_queued(&fleet, 3).await;
    let moved = std::fs::read_to_string(&file)
        .expect("it was written")
        .replace(&fleet.engines[0].url(), &another.url());
    std::fs::write(&file, moved).expect("the file is written");
    all_answered(waiting).await;
    assert_eq!((requests(&fleet), another.stats().requests), (1, 3));
}

#[tokio::test]
async fn a_queued_request_goes_by_tls_to_the_engine_that_replaces_one_without() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (file, ca) = (folder.path().join("hermes.yaml"), folder.path().join("ca"));
    let (fleet, authority) = (fleet_from_file(&file).await, Authority::new());
    let another = Engine::start(engine()).await.expect("starts");
    let front = TlsFront::start(&another, &authority.local()).await;
    std::fs::write(&ca, &authority.pem).expect("the file is written");
    let _stall = Stall::all(&fleet).await;
    let waiting = send_in_background(&fleet.url(), &short("waits"));
    await_queued(&fleet, 1).await;
    let mut moved = std::fs::read_to_string(&file)
        .expect("it was written")
        .replace(&fleet.engines[0].url(), &front.url());
    moved.push_str(&format!("  tls: {{caFile: '{}'}}\n", ca.display()));
    std::fs::write(&file, moved).expect("the file is written");
    assert_eq!(waiting.await.expect("answered"), 200);
    assert_eq!((requests(&fleet), another.stats().requests), (1, 1));
}

#[tokio::test]
async fn queued_requests_are_bound_when_the_strategy_stops_queueing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("hermes.yaml");
    let fleet = fleet_from_file(&file).await;
    let _stall = Stall::all(&fleet).await;
    let waiting = send_several(&fleet.url(), 3, "waits");
    await_queued(&fleet, 3).await;
    let changed = std::fs::read_to_string(&file)
        .expect("it was written")
        .replace("kv-aware", "round-robin");
    std::fs::write(&file, changed).expect("the file is written");
    all_answered(waiting).await;
    assert_eq!(chosen_by(&fleet.proxies, "score").await, 4.0);
}
