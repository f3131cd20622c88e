//! TLS in front of a simulated engine: it decrypts, and passes bytes on.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use hermes_engine_sim::EngineHandle;
use hermes_runtime::crypto::install_default_crypto;
use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::tls::authority::Signed;

/// A listener that shows a certificate; it ends when dropped.
pub(crate) struct TlsFront {
    address: SocketAddr,
    shared: Arc<FrontState>,
    _accepting: AbortOnDropHandle<()>,
}

struct FrontState {
    engine: SocketAddr,
    config: Mutex<Arc<ServerConfig>>,
    /// Counts certificates, so that connections under an old one can be closed.
    shown: tokio::sync::watch::Sender<u64>,
    /// The names that clients sent.
    names: Mutex<BTreeSet<String>>,
}

impl TlsFront {
    /// Shows `certificate` in front of `engine`.
    pub(crate) async fn start(engine: &EngineHandle, certificate: &Signed) -> Self {
        install_default_crypto();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(FrontState {
            engine: engine.addr(),
            config: Mutex::new(config(certificate)),
            shown: tokio::sync::watch::Sender::default(),
            names: Mutex::default(),
        });
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, Arc::clone(&shared))));
        Self {
            address,
            shared,
            _accepting: accepting,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Shows another certificate from now on, and closes what is open.
    pub(crate) fn show(&self, certificate: &Signed) {
        *self.shared.config.lock() = config(certificate);
        self.shared.shown.send_modify(|shown| *shown += 1);
    }

    /// The names that clients have sent in handshakes.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = self.shared.names.lock();
        names.iter().cloned().collect()
    }
}

fn config(certificate: &Signed) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(certificate.certificate.as_bytes());
    let chain = chain.collect::<Result<_, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).expect("a key");
    let config = ServerConfig::builder().with_no_client_auth();
    let mut config = config.with_single_cert(chain, key).expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

async fn accept(listener: TcpListener, shared: Arc<FrontState>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(serve(stream, Arc::clone(&shared)));
    }
}

/// A client that refuses the certificate is no failure of the front.
async fn serve(stream: TcpStream, shared: Arc<FrontState>) {
    let mut shown = shared.shown.subscribe();
    let config = Arc::clone(&shared.config.lock());
    let Ok(mut client) = TlsAcceptor::from(config).accept(stream).await else {
        return;
    };
    let session = client.get_ref().1;
    assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
    let name = session.server_name().map(str::to_owned);
    shared.names.lock().extend(name);
    let Ok(mut engine) = TcpStream::connect(shared.engine).await else {
        return;
    };
    tokio::select! {
        _ended = copy_bidirectional(&mut client, &mut engine) => {}
        _closed = shown.changed() => {}
    }
}
