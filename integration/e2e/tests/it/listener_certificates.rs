//! Certificates of listeners from Secrets: from an API server over HTTP to handshakes of clients.

mod absent;

use std::{net::SocketAddr, sync::Arc};

use hermes_bench::fleet::{self, Plane};
use hermes_control_plane::{
    discovery::client as kubernetes,
    listener_certificates::{
        AllowedSecrets, CertificateFeed, NewestCertificates, SecretMetrics, SecretName,
        SecretState, SecretStates,
    },
};
use hermes_core::{
    listener::{Listener, ListenerTls},
    snapshot::{Epoch, Snapshot, Version},
};
use hermes_data_plane::app::{DataPlane, DataPlaneOptions};
use hermes_testkit::{apiserver::ApiServer, replica::Replica};
use http_body_util::Empty;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use prometheus_client::registry::Registry;
use reqwest::{Certificate, Client};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::Value;
use tokio::{
    net::TcpStream,
    sync::{OnceCell, watch},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    client::{client, eventually, json_of, metric, send},
    recorder::LONG,
    tls::authority::{Authority, Signed},
};

/// The certificate of the one listener.
const NAME: &str = "ai/web";

/// The Secrets of an API server, as a control plane follows them.
struct Secrets {
    api: ApiServer,
    allowed: watch::Sender<AllowedSecrets>,
    states: watch::Receiver<SecretStates>,
    certificates: watch::Receiver<NewestCertificates>,
    _following: AbortOnDropHandle<()>,
}

impl Secrets {
    async fn start() -> Self {
        hermes_runtime::crypto::install_default_crypto();
        let api = ApiServer::start().await.expect("starts");
        let url = api.url().parse().expect("an address is a URL");
        let kube = kubernetes::connect(kube::Config::new(url)).expect("no credentials are needed");
        let (allowed, names) = watch::channel(None);
        let (published, states) = watch::channel(SecretStates::default());
        let (sent, certificates) = watch::channel(None);
        let feed = CertificateFeed {
            allowed: names,
            states: Arc::new(published),
            certificates: Arc::new(sent),
            client: Arc::new(OnceCell::new_with(Some(kube))),
            metrics: SecretMetrics::register(&mut Registry::default()),
        };
        Self {
            api,
            allowed,
            states,
            certificates,
            _following: AbortOnDropHandle::new(tokio::spawn(feed.run())),
        }
    }

    /// From now on listeners may use these.
    fn allow(&self, names: &[&str]) {
        let names = names.iter().map(|name| secret_name(name)).collect();
        self.allowed.send_replace(Some(Arc::new(names)));
    }

    fn put(&self, name: &str, signed: &Signed) {
        self.api.apply(&secret(name, signed));
    }

    fn delete(&self, name: &str) {
        let SecretName { namespace, name } = secret_name(name);
        assert!(self.api.delete::<Secret>(&namespace, &name));
    }

    async fn await_state(&self, name: &str, is_wanted: impl Fn(&SecretState) -> bool) {
        eventually("the state of the Secret", || async {
            let states = self.states.borrow();
            states.get(&secret_name(name)).is_some_and(&is_wanted)
        })
        .await;
    }
}

fn secret_name(name: &str) -> SecretName {
    let (namespace, name) = name.split_once('/').expect("namespace/name");
    SecretName {
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn secret(name: &str, signed: &Signed) -> Secret {
    let SecretName { namespace, name } = secret_name(name);
    let mut secret = Secret::default();
    secret.metadata.namespace = Some(namespace.to_string());
    secret.metadata.name = Some(name.to_string());
    secret.type_ = Some("kubernetes.io/tls".to_owned());
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    secret.data = Some(
        [
            ("tls.crt".to_owned(), bytes(&signed.certificate)),
            ("tls.key".to_owned(), bytes(&signed.key)),
        ]
        .into(),
    );
    secret
}

/// A replica whose snapshot has one listener, which this certificate secures, and a proxy of it.
struct Gateway {
    replica: Replica,
    proxy: Plane<DataPlane>,
    /// Passes on what the control plane would send.
    _passing: Option<AbortOnDropHandle<()>>,
}

impl Gateway {
    async fn start(options: impl FnOnce(DataPlaneOptions) -> DataPlaneOptions) -> Self {
        hermes_runtime::crypto::install_default_crypto();
        let replica = Replica::start("a", snapshot(1)).await.expect("starts");
        let local = DataPlaneOptions::local(vec![replica.grpc.to_string()]);
        let proxy = fleet::proxy_with(options(local)).await.expect("starts");
        let ready = timeout(LONG, proxy.bound.readiness.ready()).await;
        ready.expect("the proxy has a snapshot");
        Self {
            replica,
            proxy,
            _passing: None,
        }
    }

    /// One that gets what a control plane sends of these Secrets.
    async fn of(secrets: &Secrets) -> Self {
        let mut gateway = Self::start(|options| options).await;
        let mut certificates = secrets.certificates.clone();
        certificates.mark_changed();
        let sender = gateway.replica.certificate_sender();
        gateway._passing = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            while certificates.changed().await.is_ok() {
                let newest = certificates.borrow_and_update().clone();
                if let Some(newest) = newest {
                    sender.send(newest);
                }
            }
        })));
        gateway
    }

    async fn page(&self) -> Value {
        let url = format!("{}/debug/snapshot", self.proxy.admin_url());
        json_of(send(client().get(url)).await).await.1
    }

    /// The listener's port, as soon as it is open.
    async fn port(&self) -> SocketAddr {
        let bound = || async {
            let page = self.page().await;
            page["ports"][0]["bound"].as_str().map(str::to_owned)
        };
        eventually("the listener is open", || async { bound().await.is_some() }).await;
        let bound = bound().await.expect("it is open");
        bound.parse().expect("an address")
    }

    /// Whether a new client that trusts this authority is served.
    async fn serves(&self, authority: &Authority) -> bool {
        let port = self.port().await;
        let root = Certificate::from_pem(authority.pem.as_bytes()).expect("PEM");
        let http = Client::builder().no_proxy().tls_certs_only([root]);
        let http = http.resolve("web.example.com", port).build();
        let url = format!("https://web.example.com:{}/", port.port());
        http.expect("a client").get(url).send().await.is_ok()
    }

    async fn await_served(&self, authority: &Authority) {
        eventually("the certificate is in use", || self.serves(authority)).await;
    }

    async fn await_problem(&self, text: &'static str) {
        eventually("the problem is reported", || async {
            let page = self.page().await;
            page["ports"][0]["certificate_problems"]
                .to_string()
                .contains(text)
        })
        .await;
    }
}

fn snapshot(version: u64) -> Snapshot {
    let listener = Listener {
        name: "ai/web/https".into(),
        address: ([127, 0, 0, 1], 0).into(),
        hostname: None,
        tls: Some(ListenerTls {
            certificates: vec![NAME.into()],
        }),
        routes_only: true,
    };
    Snapshot {
        epoch: Epoch(1),
        version: Version(version),
        listeners: vec![Arc::new(listener)].into(),
        ..Snapshot::default()
    }
}

fn signed(authority: &Authority) -> Signed {
    authority.sign(&["web.example.com"], 2090)
}

/// A connection that stays open.
async fn connection(
    gateway: &Gateway,
    authority: &Authority,
) -> (SendRequest<Empty<bytes::Bytes>>, AbortOnDropHandle<()>) {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM");
    roots.add(root).expect("a certificate");
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("web.example.com").expect("a name");
    let socket = TcpStream::connect(gateway.port().await).await;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, socket.expect("it listens"));
    let stream = TokioIo::new(stream.await.expect("it is trusted"));
    let handshake = hyper::client::conn::http1::handshake(stream).await;
    let (requests, connection) = handshake.expect("HTTP/1.1");
    let driven = tokio::spawn(async move { drop(connection.await) });
    (requests, AbortOnDropHandle::new(driven))
}

async fn status_on(requests: &mut SendRequest<Empty<bytes::Bytes>>) -> u16 {
    let request = http::Request::get("/")
        .header("host", "web.example.com")
        .body(Empty::new());
    let answer = requests.send_request(request.expect("valid")).await;
    answer.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn a_secret_secures_a_listener_is_replaced_without_closing_connections_and_goes() {
    let (old, new) = (Authority::new(), Authority::new());
    let secrets = Secrets::start().await;
    secrets.put(NAME, &signed(&old));
    secrets.allow(&[NAME]);
    let gateway = Gateway::of(&secrets).await;
    gateway.await_served(&old).await;
    let (mut open, _driven) = connection(&gateway, &old).await;
    assert_eq!(status_on(&mut open).await, 404, "there is no route");

    secrets.put(NAME, &signed(&new));
    gateway.await_served(&new).await;
    assert!(!gateway.serves(&old).await);
    assert_eq!(status_on(&mut open).await, 404, "the connection is open");

    secrets.delete(NAME);
    eventually("nothing is shown", || async { !gateway.serves(&new).await }).await;
    gateway.await_problem("there is no such Secret").await;
    assert_eq!(status_on(&mut open).await, 404, "the connection is open");
    secrets.put(NAME, &signed(&old));
    gateway.await_served(&old).await;
}

#[tokio::test]
async fn a_secret_that_is_broken_or_cannot_be_read_leaves_the_last_good_one_in_use() {
    let authority = Authority::new();
    let secrets = Secrets::start().await;
    secrets.put(NAME, &signed(&authority));
    secrets.allow(&[NAME]);
    let gateway = Gateway::of(&secrets).await;
    gateway.await_served(&authority).await;
    let mut mixed = signed(&authority);
    mixed.key = signed(&authority).key;
    secrets.put(NAME, &mixed);
    secrets
        .await_state(
            NAME,
            |state| matches!(state, SecretState::Invalid(reason) if reason.contains("tls.key")),
        )
        .await;
    gateway.await_problem("tls.key").await;
    assert!(gateway.serves(&authority).await);

    let later = Secrets::start().await;
    later.api.forbid::<Secret>();
    later.allow(&[NAME]);
    later
        .await_state(
            NAME,
            |state| matches!(state, SecretState::Unknown(reason) if reason.contains("forbidden")),
        )
        .await;
    later.put(NAME, &signed(&authority));
    later.api.permit_all();
    later
        .await_state(NAME, |state| *state == SecretState::Usable)
        .await;
}

#[tokio::test]
async fn only_the_secrets_that_are_allowed_are_read() {
    let authority = Authority::new();
    let secrets = Secrets::start().await;
    for name in [NAME, "ai/other", "other/web"] {
        secrets.put(name, &signed(&authority));
    }
    secrets.allow(&[NAME, "ai/absent"]);
    secrets
        .await_state("ai/absent", |state| *state == SecretState::Absent)
        .await;
    secrets
        .await_state(NAME, |state| *state == SecretState::Usable)
        .await;
    let asked = secrets.api.selected::<Secret>();
    assert_eq!(asked, ["ai/absent", NAME]);
    secrets.allow(&[]);
    eventually("nothing is known any more", || async {
        secrets.states.borrow().is_empty()
    })
    .await;
}
