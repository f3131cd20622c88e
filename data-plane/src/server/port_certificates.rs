//! Which certificate a client gets: by the host that it asks for in its handshake (SNI).

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use hermes_core::listener::Listener;
use hermes_runtime::tls::CertificateStore;
use rustls::{
    ServerConfig,
    crypto::ring,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// The certificates of one port. The listeners of the port may change while it is open.
pub(super) struct PortCertificates {
    store: CertificateStore,
    listeners: ArcSwap<Vec<Arc<Listener>>>,
}

impl PortCertificates {
    pub(super) fn new(store: CertificateStore, listeners: Vec<Arc<Listener>>) -> Arc<Self> {
        Arc::new(Self {
            store,
            listeners: ArcSwap::from_pointee(listeners),
        })
    }

    /// From now on the port has these listeners.
    pub(super) fn set(&self, listeners: &[Arc<Listener>]) {
        if **self.listeners.load() != *listeners {
            self.listeners.store(Arc::new(listeners.to_vec()));
        }
    }

    /// How the port's connections are secured: TLS 1.2 or 1.3, then HTTP/2 or HTTP/1.1 as the client
    /// prefers.
    pub(super) fn config(self: &Arc<Self>) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites of both versions");
        let resolver = Arc::<Self>::clone(self);
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    /// The certificate for a host in lower case; for none, that of the listener for any host, or of
    /// the first one.
    fn certificate(&self, host: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let listeners = self.listeners.load();
        let listener = match host {
            Some(host) => listeners
                .iter()
                .filter_map(|listener| {
                    let specificity = match &listener.hostname {
                        None => (false, 0),
                        Some(hostname) => hostname.specificity(host)?,
                    };
                    Some((specificity, listener))
                })
                .max_by_key(|(specificity, _)| *specificity)
                .map(|(_, listener)| listener),
            None => listeners
                .iter()
                .find(|listener| listener.hostname.is_none())
                .or(listeners.first()),
        };
        let names = &listener?.tls.as_ref()?.certificates;
        let there = || names.iter().filter_map(|name| self.store.find(name));
        let named = host.and_then(|host| there().find(|found| found.is_for(host)));
        named
            .or_else(|| there().next())
            .map(|found| Arc::clone(found.key()))
    }
}

impl ResolvesServerCert for PortCertificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certificate(hello.server_name().map(str::to_ascii_lowercase).as_deref())
    }
}

impl fmt::Debug for PortCertificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortCertificates").finish_non_exhaustive()
    }
}
