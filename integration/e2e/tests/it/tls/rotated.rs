//! Certificates change while streams run.

use hermes_bench::fleet::{Fleet, Scene, proxy_with};
use hermes_data_plane::app as data;
use hermes_engine_sim::EngineConfig;

use super::{
    admin_of,
    authority::{Authority, Mounted},
};
use crate::client::{chat, eventually, metric, pieces, send};

const READ: &str = "hermes_tls_reloads_total{outcome=\"accepted\"}";
const REFUSED: &str = "hermes_tls_reloads_total{outcome=\"rejected\"}";
const IN_FORCE: &str = "hermes_tls_last_reload_successful";

async fn both_have(fleet: &Fleet, series: &'static str, count: f64) {
    for admin in [admin_of(fleet), fleet.proxies[0].admin_url()] {
        eventually("both planes noticed", || async {
            metric(&admin, series).await == count
        })
        .await;
    }
}

/// Connections to the control plane that were ever accepted.
async fn connections(fleet: &Fleet) -> f64 {
    metric(
        &admin_of(fleet),
        "hermes_control_plane_tls_handshakes_total{outcome=\"accepted\"}",
    )
    .await
}

#[tokio::test]
async fn an_authority_is_replaced_step_by_step_and_no_stream_is_dropped() {
    let (old, new) = (Authority::new(), Authority::new());
    let mounted = Mounted::new(&[&old], &old.local());
    let unhurried = vec![EngineConfig::default()];
    let scene = Scene {
        tls: Some(mounted.path()),
        engines: unhurried,
        ..Scene::of(0, "kv-aware")
    };
    let fleet = scene.start().await.expect("starts");
    let before = connections(&fleet).await;
    let stream = send(chat(&fleet.url(), true, 200)).await;

    for (step, (authorities, own)) in [
        (vec![&old, &new], &old),
        (vec![&old, &new], &new),
        (vec![&new], &new),
    ]
    .into_iter()
    .enumerate()
    {
        mounted.swap(&authorities, &own.local());
        both_have(&fleet, READ, 2.0 + step as f64).await;
        assert_eq!(send(chat(&fleet.url(), true, 4)).await.status(), 200);
    }
    assert!(
        pieces(stream).await.1,
        "the answer that was under way is whole"
    );
    assert_eq!(
        connections(&fleet).await,
        before,
        "the streams of the beginning are still in use"
    );

    let target = fleet.control_planes[0].bound.grpc.to_string();
    let late = Mounted::new(&[&new], &new.local());
    let options = data::DataPlaneOptions {
        tls: Some(late.path()),
        ..data::DataPlaneOptions::local(vec![target])
    };
    let proxy = proxy_with(options).await.expect("starts");
    eventually("a new proxy shakes hands by the new authority", || async {
        proxy.bound.readiness.is_ready()
    })
    .await;
}

#[tokio::test]
async fn a_half_written_folder_changes_nothing_and_is_reported() {
    let authority = Authority::new();
    let mounted = Mounted::new(&[&authority], &authority.local());
    let scene = Scene {
        tls: Some(mounted.path()),
        ..Scene::default()
    };
    let fleet = scene.start().await.expect("starts");

    let next = authority.sign(&["127.0.0.1"], 2080);
    mounted.write("tls.crt", &next.certificate);
    both_have(&fleet, REFUSED, 1.0).await;
    both_have(&fleet, IN_FORCE, 0.0).await;
    let target = fleet.control_planes[0].bound.grpc.to_string();
    let other = Mounted::new(&[&authority], &authority.local());
    let options = data::DataPlaneOptions {
        tls: Some(other.path()),
        ..data::DataPlaneOptions::local(vec![target])
    };
    let proxy = proxy_with(options).await.expect("starts");
    eventually("the last good certificate is shown", || async {
        proxy.bound.readiness.is_ready()
    })
    .await;

    mounted.write("tls.key", &next.key);
    both_have(&fleet, IN_FORCE, 1.0).await;
    let end_of_2080 = 3_502_828_800.0;
    both_have(
        &fleet,
        "hermes_tls_certificate_expiry_timestamp_seconds",
        end_of_2080,
    )
    .await;
}
