//! Gateways that connect by TLS, without a certificate of their own.

use std::{net::SocketAddr, sync::Arc};

use hermes_bench::fleet::Scene;
use hermes_data_plane::app::PickerOptions;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;

use super::{Gateway, gateway::chat};
use crate::tls::authority::{Authority, Mounted};

/// A gateway that trusts this authority, with this version of TLS.
async fn connect(
    door: SocketAddr,
    authority: &Authority,
    version: &'static rustls::SupportedProtocolVersion,
) -> Option<Gateway> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM");
    roots.add(certificate).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
    let mut config = config
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let dial = service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(door).await?;
            let name = ServerName::try_from("localhost").expect("a name");
            let secured = connector.connect(name, stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(secured))
        }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(dial).await.ok()?;
    Some(Gateway::over(channel))
}

#[tokio::test]
async fn gateways_connect_by_either_version_of_tls_and_verify_the_picker() {
    let (authority, other) = (Authority::new(), Authority::new());
    let mounted = Mounted::new(&[&authority], &authority.local());
    let scene = Scene {
        picker: Some(PickerOptions {
            tls: Some(mounted.path()),
            ..PickerOptions::plain(([127, 0, 0, 1], 0).into())
        }),
        ..Scene::of(1, "kv-aware")
    };
    let fleet = scene.start().await.expect("starts");
    let door = fleet.proxies[0].bound.picker.expect("a door");
    for version in [&TLS12, &TLS13] {
        let gateway = connect(door, &authority, version).await.expect("connects");
        assert_eq!(gateway.serve(&chat(true, 3)).await.0, 200);
    }
    assert!(
        connect(door, &other, &TLS13).await.is_none(),
        "another authority signed it"
    );
    let plain = Endpoint::from_shared(format!("http://{door}")).expect("an address");
    if let Ok(channel) = plain.connect().await {
        let mut picker = Gateway::over(channel).picker;
        let answer = picker.process(tokio_stream::empty()).await;
        assert!(answer.is_err(), "the port speaks TLS only");
    }
}
