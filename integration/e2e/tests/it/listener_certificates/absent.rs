//! What proxies do while no certificate is sent.

use hermes_control_plane::{
    app::{ConfigSource, ControlPlane, Options},
    config::Config,
};
use hermes_core::certificate::{CertificatePem, CertificateState, CertificateStates};
use hermes_proto::v1::{CertificatesRequest, router_client::RouterClient};
use hermes_runtime::{
    readiness::Liveness,
    shutdown::Drain,
    tasks::Tasks,
    tls::{Tls, TlsFolder},
};
use tempfile::TempDir;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use super::*;
use crate::tls::authority::Mounted;

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

/// A control plane with these options.
async fn control_plane(options: Options) -> Plane<ControlPlane> {
    hermes_runtime::crypto::install_default_crypto();
    fleet::control_plane_with(options).await.expect("starts")
}

fn options() -> Options {
    let yaml = "pools: [{name: a, endpoints: ['http://127.0.0.1:9']}]";
    let config = Config::parse(yaml).expect("a configuration");
    Options::local(ConfigSource::Value(config))
}

/// Asks for certificates as a proxy does.
async fn ask(channel: Channel) -> Result<(), Status> {
    let request = CertificatesRequest::default();
    let asked = RouterClient::new(channel).certificates(request).await;
    asked.map(drop)
}

async fn connect(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("it listens")
}

/// A connection that both sides secure.
async fn connect_by(tls: Tls, address: SocketAddr) -> Channel {
    let dial = service_fn(move |_uri| {
        let connector = TlsConnector::from(tls.client());
        async move {
            let name = ServerName::try_from("127.0.0.1").expect("an address");
            let socket = TcpStream::connect(address).await?;
            connector.connect(name, socket).await.map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://127.0.0.1");
    let connected = endpoint.connect_with_connector(dial).await;
    connected.expect("each trusts the other")
}

#[tokio::test]
async fn a_control_plane_sends_keys_over_mutual_tls_only_unless_it_is_permitted() {
    let strict = control_plane(options()).await;
    let refused = ask(connect(strict.bound.grpc).await).await;
    let refused = refused.expect_err("there is no TLS");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("--tls"), "{refused}");

    let permitted = control_plane(Options {
        certificates_without_tls: true,
        ..options()
    });
    let permitted = permitted.await;
    ask(connect(permitted.bound.grpc).await)
        .await
        .expect("it is permitted");

    let authority = Authority::new();
    let mounted = Mounted::new(&[&authority], &authority.local());
    let secured = control_plane(Options {
        tls: Some(mounted.path()),
        ..options()
    });
    let (secured, mut registry) = (secured.await, Registry::default());
    let tasks = Tasks::new(Liveness::default(), Drain::default());
    let tls = TlsFolder::follow(Some(mounted.path()), &mut registry, &tasks).await;
    let tls = tls.expect("it is whole").expect("a folder");
    let channel = connect_by(tls, secured.bound.grpc).await;
    ask(channel).await.expect("both sides show certificates");
}
