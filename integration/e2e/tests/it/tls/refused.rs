//! A peer without a valid certificate of the authority is rejected.

use std::{sync::Arc, time::Duration};

use hermes_bench::fleet::{Fleet, Scene, proxy, proxy_with};
use hermes_data_plane::app as data;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    admin_of,
    authority::{Authority, Mounted, Signed},
};
use crate::client::{eventually, metric};

/// A control plane alone, by TLS.
async fn guarded(authority: &Authority) -> (Fleet, Mounted) {
    let mounted = Mounted::new(&[authority], &authority.local());
    let scene = Scene {
        tls: Some(mounted.path()),
        proxies: 0,
        ..Scene::default()
    };
    (scene.start().await.expect("starts"), mounted)
}

async fn handshakes(fleet: &Fleet, outcome: &str) -> f64 {
    let series = format!("hermes_control_plane_tls_handshakes_total{{outcome=\"{outcome}\"}}");
    metric(&admin_of(fleet), &series).await
}

/// A proxy with these certificates is turned away, and the control plane counts it.
async fn turned_away(fleet: &Fleet, authorities: &[&Authority], own: &Signed, outcome: &str) {
    let mounted = Mounted::new(authorities, own);
    let target = fleet.control_planes[0].bound.grpc.to_string();
    let options = data::DataPlaneOptions {
        tls: Some(mounted.path()),
        ..data::DataPlaneOptions::local(vec![target])
    };
    let proxy = proxy_with(options).await.expect("starts");
    eventually("its handshakes fail, again and again", || async {
        handshakes(fleet, outcome).await > 3.0
    })
    .await;
    assert!(!proxy.bound.readiness.is_ready(), "it got a snapshot");
    assert_eq!(
        metric(&admin_of(fleet), "hermes_control_plane_subscribers").await,
        0.0
    );
}

#[tokio::test]
async fn a_proxy_with_a_certificate_of_another_authority_is_rejected() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (fleet, _mounted) = guarded(&authority).await;
    turned_away(&fleet, &[&authority], &other.local(), "bad_certificate").await;
}

#[tokio::test]
async fn a_proxy_with_an_expired_certificate_is_rejected() {
    let authority = Authority::new();
    let (fleet, _mounted) = guarded(&authority).await;
    turned_away(
        &fleet,
        &[&authority],
        &authority.sign(&["127.0.0.1"], 2021),
        "bad_certificate",
    )
    .await;
}

#[tokio::test]
async fn a_proxy_that_does_not_trust_the_control_plane_sends_it_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (fleet, _mounted) = guarded(&authority).await;
    turned_away(&fleet, &[&other], &authority.local(), "failed").await;
}

#[tokio::test]
async fn a_proxy_without_tls_is_rejected() {
    let (fleet, _mounted) = guarded(&Authority::new()).await;
    let proxy = proxy(&[fleet.control_planes[0].bound.grpc])
        .await
        .expect("starts");
    eventually("its bytes are no handshake", || async {
        handshakes(&fleet, "failed").await > 3.0
    })
    .await;
    assert!(!proxy.bound.readiness.is_ready());
}

#[tokio::test]
async fn a_client_without_a_certificate_receives_no_byte() {
    let authority = Authority::new();
    let (fleet, _mounted) = guarded(&authority).await;
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM"))
        .expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS");
    let connector = TlsConnector::from(Arc::new(
        builder.with_root_certificates(roots).with_no_client_auth(),
    ));

    let connection = TcpStream::connect(fleet.control_planes[0].bound.grpc)
        .await
        .expect("a listener");
    let name = ServerName::try_from("localhost").expect("a name");
    // In TLS 1.3 the client's side is done before the server has seen that a certificate is
    // missing.
    let mut stream = connector
        .connect(name, connection)
        .await
        .expect("its own side of the handshake");
    let mut bytes = Vec::new();
    let end = timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes))
        .await
        .expect("closed at once");
    assert!(end.is_err() && bytes.is_empty(), "{bytes:?}");
    assert_eq!(handshakes(&fleet, "no_certificate").await, 1.0);
}

#[tokio::test]
async fn connections_that_send_nothing_keep_no_proxy_out() {
    let authority = Authority::new();
    let (fleet, mounted) = guarded(&authority).await;
    let grpc = fleet.control_planes[0].bound.grpc;
    // More than are shaken at once, from another address than the proxy's.
    let mut silent = Vec::new();
    for _ in 0..300 {
        let socket = TcpSocket::new_v4().expect("a socket");
        let address = "127.0.0.2:0".parse().expect("an address");
        socket.bind(address).expect("an address of the loopback");
        silent.push(socket.connect(grpc).await.expect("a listener"));
    }
    eventually("the oldest make room", || async {
        handshakes(&fleet, "displaced").await >= 44.0
    })
    .await;
    let options = data::DataPlaneOptions {
        tls: Some(mounted.path()),
        ..data::DataPlaneOptions::local(vec![grpc.to_string()])
    };
    let proxy = proxy_with(options).await.expect("starts");
    eventually("the proxy gets its snapshot", || async {
        proxy.bound.readiness.is_ready()
    })
    .await;
    assert_eq!(
        handshakes(&fleet, "timeout").await,
        0.0,
        "before any of them is given up"
    );
}
