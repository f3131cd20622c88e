//! What proxies do while no certificate is sent.

use hermes_control_plane::app::{ConfigSource, Options};
use hermes_control_plane::config::Config;
use hermes_core::certificate::{CertificatePem, CertificateState, CertificateStates};
use hermes_proto::v1::{CertificatesRequest, router_client::RouterClient};
use tempfile::TempDir;
use tonic::Code;

use super::*;

/// The certificate of this authority, as a replica sends it.
fn usable(authority: &Authority) -> CertificateStates {
    let Signed { certificate, key } = signed(authority);
    let pem = CertificatePem {
        chain: certificate.as_bytes().into(),
        key: key.as_bytes().into(),
    };
    CertificateStates::from([(NAME.into(), CertificateState::Usable(pem))])
}

#[tokio::test]
async fn while_the_control_plane_is_away_the_last_certificates_stay_and_the_newest_follow() {
    let (old, new) = (Authority::new(), Authority::new());
    let gateway = Gateway::start(|options| options).await;
    gateway.replica.send_certificates(usable(&old));
    gateway.await_served(&old).await;
    gateway.replica.leave();
    gateway.replica.send_certificates(usable(&new));
    assert!(gateway.serves(&old).await);
    gateway.replica.come_back(snapshot(2));
    gateway.await_served(&new).await;
}

#[tokio::test]
async fn a_proxy_that_was_sent_none_says_what_is_missing_and_why() {
    let authority = Authority::new();
    let gateway = Gateway::start(|options| options).await;
    gateway
        .await_problem("certificate ai/web: this release sends no certificates")
        .await;
    let missing = "hermes_listener_certificates{state=\"missing\"}";
    assert_eq!(metric(&gateway.proxy.admin_url(), missing).await, 1.0);
    assert!(!gateway.serves(&authority).await);
    gateway.replica.send_certificates(usable(&authority));
    gateway.await_served(&authority).await;
    assert_eq!(metric(&gateway.proxy.admin_url(), missing).await, 0.0);
}

#[tokio::test]
async fn a_folder_of_the_proxy_comes_before_what_is_sent() {
    let (sent, local) = (Authority::new(), Authority::new());
    let folder = TempDir::new().expect("a folder");
    let own = folder.path().join(NAME);
    std::fs::create_dir_all(&own).expect("a folder");
    let Signed { certificate, key } = signed(&local);
    std::fs::write(own.join("tls.crt"), certificate).expect("written");
    std::fs::write(own.join("tls.key"), key).expect("written");
    let certificates = Some(folder.path().to_owned());
    let gateway = Gateway::start(|options| DataPlaneOptions {
        listener_certificates: certificates,
        ..options
    })
    .await;
    gateway.replica.send_certificates(usable(&sent));
    gateway.await_served(&local).await;
    std::fs::remove_dir_all(&own).expect("removed");
    gateway.await_served(&sent).await;
}

#[tokio::test]
async fn no_page_of_a_proxy_has_a_key() {
    let authority = Authority::new();
    let gateway = Gateway::start(|options| options).await;
    let states = usable(&authority);
    let [CertificateState::Usable(pem)] = &states.values().cloned().collect::<Vec<_>>()[..] else {
        panic!("one certificate");
    };
    let key = String::from_utf8(pem.key.to_vec()).expect("PEM");
    let line = key.lines().nth(1).expect("a line of the key").to_owned();
    gateway.replica.send_certificates(states);
    gateway.await_served(&authority).await;
    for page in [
        "/debug/snapshot",
        "/metrics",
        "/readyz",
        "/debug/route?host=web.example.com",
    ] {
        let url = format!("{}{page}", gateway.proxy.admin_url());
        let text = send(client().get(url)).await.text().await.expect("text");
        assert!(
            !text.contains(&line) && !text.contains("PRIVATE KEY"),
            "{page}"
        );
    }
}

#[tokio::test]
async fn a_control_plane_sends_keys_over_mutual_tls_only_unless_it_is_permitted() {
    hermes_runtime::crypto::install_default_crypto();
    let start = async |certificates_without_tls| {
        let config = Config::parse("pools: [{name: a, endpoints: ['http://127.0.0.1:9']}]")
            .expect("a configuration");
        let options = Options {
            certificates_without_tls,
            ..Options::local(ConfigSource::Value(config))
        };
        fleet::control_plane_with(options).await.expect("starts")
    };
    let ask = async |control: SocketAddr| {
        let client = RouterClient::connect(format!("http://{control}")).await;
        let request = CertificatesRequest::default();
        client.expect("it listens").certificates(request).await
    };
    let strict = start(false).await;
    let refused = ask(strict.bound.grpc).await.expect_err("there is no TLS");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("--tls"), "{refused}");
    let lenient = start(true).await;
    ask(lenient.bound.grpc).await.expect("it is permitted");
}
