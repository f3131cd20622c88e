//! Both sides of a handshake, as the newest good certificates have them.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use super::identity::Identity;

/// What is spoken inside: gRPC needs HTTP/2.
pub(super) const PROTOCOL: &[u8] = b"h2";

/// How to accept and to dial. Clones share what is newest; load it once for each connection.
#[derive(Clone)]
pub struct Tls {
    newest: Arc<ArcSwap<Parties>>,
}

/// Both sides, made of one identity.
struct Parties {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

// === Tls ===

impl Tls {
    pub(super) fn new(identity: &Identity) -> Self {
        Self {
            newest: Arc::new(ArcSwap::from_pointee(Parties::of(identity))),
        }
    }

    /// Connections that begin from now on go by this identity.
    pub(super) fn replace(&self, identity: &Identity) {
        self.newest.store(Arc::new(Parties::of(identity)));
    }

    /// For the side that accepts: shows the certificate, and takes clients whose certificate the
    /// authority signed.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.newest.load().server)
    }

    /// For the side that dials: shows the certificate, and takes servers whose certificate the
    /// authority signed for the name that was dialed.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.newest.load().client)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

// === Parties ===

impl Parties {
    fn of(identity: &Identity) -> Self {
        Self {
            server: Arc::new(server(identity)),
            client: Arc::new(client(identity)),
        }
    }
}

/// The one provider of the process.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn server(identity: &Identity) -> ServerConfig {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&identity.authority), provider())
            .build();
    // Fails for an authority without certificates, which `Identity` never holds.
    let verifier = verifier.expect("an identity has an authority");
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
    let builder = builder.expect("ring has cipher suites of TLS 1.3");
    let mut config = builder
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shown(&identity.own));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config
}

fn client(identity: &Identity) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
    let builder = builder.expect("ring has cipher suites of TLS 1.3");
    let builder = builder.with_root_certificates(Arc::clone(&identity.authority));
    let mut config = builder.with_client_cert_resolver(shown(&identity.own));
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config
}

pub(super) fn shown(own: &Arc<CertifiedKey>) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(Arc::clone(own)))
}
