//! Mutual TLS between the planes: which peers are accepted, and rotation of certificates with open
//! streams.

pub(crate) mod authority;
mod refused;
mod rotated;

use hermes_bench::fleet::{Scene, proxy_with};
use hermes_data_plane::app as data;

use self::authority::{Authority, Mounted};
use crate::client::{chat, eventually, metric, send};

#[tokio::test]
async fn planes_with_certificates_of_one_authority_serve() {
    let authority = Authority::new();
    let mounted = Mounted::new(&[&authority], &authority.local());
    let scene = Scene {
        tls: Some(mounted.path()),
        control_planes: 2,
        proxies: 2,
        ..Scene::of(2, "kv-aware")
    };
    let fleet = scene.start().await.expect("starts");
    for proxy in &fleet.proxies {
        assert_eq!(send(chat(&proxy.url(), true, 4)).await.status(), 200);
    }
    let chosen: f64 = {
        let series = "hermes_endpoint_selections_total{pool=\"chat\",level=\"score\"}";
        metric(&fleet.proxies[0].admin_url(), series).await
            + metric(&fleet.proxies[1].admin_url(), series).await
    };
    assert_eq!(chosen, 2.0, "the control planes chose, over TLS");
    let end_of_2090 = 3_818_361_600.0;
    for admin in [fleet.proxies[0].admin_url(), admin_of(&fleet)] {
        assert_eq!(
            metric(&admin, "hermes_tls_certificate_expiry_timestamp_seconds").await,
            end_of_2090
        );
    }
}

#[tokio::test]
async fn a_certificate_is_checked_for_the_name_that_was_dialed_and_not_for_the_address() {
    let authority = Authority::new();
    let named = Mounted::new(&[&authority], &authority.sign(&["localhost"], 2090));
    let scene = Scene {
        tls: Some(named.path()),
        proxies: 0,
        ..Scene::default()
    };
    let fleet = scene.start().await.expect("starts");
    let port = fleet.control_planes[0].bound.grpc.port();
    let dialing = |host: &str| data::DataPlaneOptions {
        tls: Some(named.path()),
        ..data::DataPlaneOptions::local(vec![format!("{host}:{port}")])
    };
    let by_name = proxy_with(dialing("localhost")).await.expect("starts");
    eventually("the proxy that dialed the name is ready", || async {
        by_name.bound.readiness.is_ready()
    })
    .await;
    let by_address = proxy_with(dialing("127.0.0.1")).await.expect("starts");
    let refused = "hermes_control_plane_tls_handshakes_total{outcome=\"failed\"}";
    eventually("its handshake broke", || async {
        metric(&admin_of(&fleet), refused).await > 0.0
    })
    .await;
    assert!(
        !by_address.bound.readiness.is_ready(),
        "the certificate does not hold the address"
    );
}

#[tokio::test]
async fn a_folder_that_is_not_whole_fails_the_start_and_names_file_and_flag() {
    let authority = Authority::new();
    let mounted = Mounted::new(&[&authority], &authority.local());
    mounted.write("tls.key", &authority.local().key);
    let scene = Scene {
        tls: Some(mounted.path()),
        ..Scene::default()
    };
    let error = scene
        .start()
        .await
        .expect_err("the key is another's")
        .to_string();
    assert!(
        error.contains("tls.key") && error.contains("--tls"),
        "{error}"
    );
    let options = data::DataPlaneOptions {
        tls: Some("nowhere".into()),
        ..data::DataPlaneOptions::local(vec!["localhost:1".to_owned()])
    };
    let error = proxy_with(options)
        .await
        .expect_err("no folder")
        .to_string();
    assert!(
        error.contains("nowhere/ca.crt") && error.contains("--tls"),
        "{error}"
    );
}

/// The admin port of the first control plane.
fn admin_of(fleet: &hermes_bench::fleet::Fleet) -> String {
    format!(
        "http://{}",
        fleet.control_planes[0]
            .bound
            .admin
            .expect("a fleet has admin ports")
    )
}
