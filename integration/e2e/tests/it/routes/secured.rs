//! Listeners that secure connections, with a certificate for each host.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::{Certificate, Client};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::{Gateway, TO_BLUE, TO_GREEN};
use crate::{
    client::eventually,
    tls::authority::{Authority, Signed},
};

const WAYS: &str = "
listeners:
- {name: one, address: '127.0.0.1:0', hostname: one.example.com, tls: {certificates: [one]}}
- {name: others, address: '127.0.0.1:0', hostname: '*.example.com', tls: {certificates: [one, others]}}
routes:
- {name: one, listeners: [one], rules: [{backends: [{pool: blue}]}]}
- {name: others, listeners: [others], rules: [{backends: [{pool: green}]}]}
";

fn write(folder: &Path, name: &str, signed: &Signed) {
    let folder = folder.join(name);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("tls.crt"), &signed.certificate).expect("written");
    fs::write(folder.join("tls.key"), &signed.key).expect("written");
}

/// A client that trusts the authority, and finds every host at this address.
fn trusting(authority: &Authority, address: SocketAddr) -> Client {
    hermes_runtime::crypto::install_default_crypto();
    let root = Certificate::from_pem(authority.pem.as_bytes()).expect("PEM");
    let mut builder = Client::builder()
        .no_proxy()
        .http1_only()
        .tls_certs_only([root]);
    for host in ["one.example.com", "two.example.com", "example.org"] {
        builder = builder.resolve(host, address);
    }
    builder.build().expect("a client")
}

#[tokio::test]
async fn each_host_has_its_certificate_and_its_routes() {
    let (authority, folder) = (Authority::new(), TempDir::new().expect("a folder"));
    write(
        folder.path(),
        "one",
        &authority.sign(&["one.example.com"], 2090),
    );
    write(
        folder.path(),
        "others",
        &authority.sign(&["*.example.com"], 2090),
    );
    let gateway = Gateway::with(WAYS, Some(folder.path().to_owned())).await;
    let bound: SocketAddr = gateway.port_of("one").await.parse().expect("an address");
    let client = trusting(&authority, bound);
    let get = |host: &str| client.get(format!("https://{host}:{}/x", bound.port()));

    let answer = get("one.example.com").send().await.expect("it is trusted");
    assert_eq!(answer.status(), 200);
    let seen = gateway.blue.take().remove(0).to_lowercase();
    assert!(seen.contains("\r\nx-forwarded-proto: https\r\n"), "{seen}");
    assert_eq!(gateway.sent(get("two.example.com")).await, TO_GREEN);
    assert!(
        get("example.org").send().await.is_err(),
        "no listener has this host"
    );
    assert_eq!(gateway.sent(get("one.example.com")).await, TO_BLUE);
}

#[tokio::test]
async fn a_client_that_prefers_http2_gets_it() {
    let (authority, folder) = (Authority::new(), TempDir::new().expect("a folder"));
    write(
        folder.path(),
        "one",
        &authority.sign(&["one.example.com"], 2090),
    );
    let gateway = Gateway::with(WAYS, Some(folder.path().to_owned())).await;
    let bound = gateway.port_of("one").await;
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM");
    roots.add(root).expect("a certificate");
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("one.example.com").expect("a name");
    let socket = TcpStream::connect(bound).await.expect("it listens");
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector
        .connect(name, socket)
        .await
        .expect("it is trusted");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));

    let executor = TokioExecutor::new();
    let handshake = hyper::client::conn::http2::handshake(executor, TokioIo::new(stream));
    let (mut requests, connection) = handshake.await.expect("HTTP/2");
    let _driven = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = http::Request::get("https://one.example.com/x").body(Empty::<Bytes>::new());
    let answer = requests.send_request(request.expect("valid")).await;
    assert_eq!(answer.expect("an answer").status(), 200);
    let seen = gateway.blue.take().remove(0).to_lowercase();
    assert!(seen.contains("\r\nhost: one.example.com\r\n"), "{seen}");
}

#[tokio::test]
async fn a_certificate_may_come_later_and_is_replaced_while_the_proxy_runs() {
    let (old, new) = (Authority::new(), Authority::new());
    let folder = TempDir::new().expect("a folder");
    let gateway = Gateway::with(WAYS, Some(folder.path().to_owned())).await;
    let bound: SocketAddr = gateway.port_of("one").await.parse().expect("an address");
    let url = format!("https://one.example.com:{}/x", bound.port());
    // Each client has connections of its own.
    let serves = |authority: &Authority| {
        let request = trusting(authority, bound).get(&url);
        async move { request.send().await.is_ok() }
    };
    assert!(!serves(&old).await);
    let port = gateway.snapshot().await["ports"][0].clone();
    let problem = port["certificate_problems"][0]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(problem.contains("tls.crt"), "{port}");
    for authority in [&old, &new] {
        write(
            folder.path(),
            "one",
            &authority.sign(&["one.example.com"], 2090),
        );
        eventually("the certificate is in use", || serves(authority)).await;
    }
    assert!(!serves(&old).await);
    fs::write(folder.path().join("one/tls.key"), "broken").expect("written");
    eventually("the broken key is reported", || async {
        let port = gateway.snapshot().await["ports"][0].clone();
        port["certificate_problems"].to_string().contains("tls.key")
    })
    .await;
    assert!(serves(&new).await, "the last good one stays");
}
