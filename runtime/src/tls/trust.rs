//! Which servers are trusted: connections that show no certificate of their own.

use std::sync::{Arc, OnceLock};

use rustls::{ClientConfig, RootCertStore, client::Resumption};

use super::{Problem, identity::certificates, parties::provider};

/// What is spoken inside: without it, a server may choose HTTP/2.
const PROTOCOL: &[u8] = b"http/1.1";

/// The authorities of the system, kept from the first reading that found some.
static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();

/// Authorities that sign servers' certificates. Clones share them.
#[derive(Clone, Debug)]
pub struct ServerTrust(Arc<RootCertStore>);

/// No authority is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAuthority {
    /// The list holds something else than certificates.
    #[error("the list of authorities {0}")]
    List(Problem),
    /// The system has no authorities.
    #[error(
        "the system has no CA certificates in /etc/ssl/certs or where SSL_CERT_FILE and SSL_CERT_DIR point"
    )]
    System,
}

impl ServerTrust {
    /// The authorities whose certificates `pem` holds, and no others.
    ///
    /// # Errors
    /// When it holds none, or something that is no certificate of an authority.
    pub fn of(pem: &[u8]) -> Result<Self, NoAuthority> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem).map_err(NoAuthority::List)? {
            let added = roots.add(certificate);
            added.map_err(|_| NoAuthority::List(Problem::BrokenCertificate))?;
        }
        Ok(Self(Arc::new(roots)))
    }

    /// The system's authorities, as they were when the process first found some: that reads some
    /// files, and takes milliseconds. After a reading that finds none the next call reads again.
    ///
    /// # Errors
    /// When the system has none, or none can be read.
    pub fn system() -> Result<Self, NoAuthority> {
        first_found(&SYSTEM, read_system)
    }

    /// No authority: every handshake fails.
    #[must_use]
    pub fn none() -> Self {
        Self(Arc::new(RootCertStore::empty()))
    }

    /// How to dial servers that these authorities signed for the name that is dialed. TLS 1.2 and
    /// 1.3, HTTP/1.1 inside. Nothing is resumed: a resumed session would skip the certificate,
    /// which may have expired.
    #[must_use]
    pub fn client(&self) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions();
        let mut config = builder
            .expect("ring has cipher suites of both versions")
            .with_root_certificates(Arc::clone(&self.0))
            .with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        config
    }
}

/// What `found` keeps, or what `read` returns, which is kept if it holds any authority.
fn first_found(
    found: &OnceLock<Arc<RootCertStore>>,
    read: impl FnOnce() -> RootCertStore,
) -> Result<ServerTrust, NoAuthority> {
    if let Some(known) = found.get() {
        return Ok(ServerTrust(Arc::clone(known)));
    }
    let roots = read();
    if roots.is_empty() {
        return Err(NoAuthority::System);
    }
    // Of two that read at once, one keeps its reading.
    let kept = found.get_or_init(|| Arc::new(roots));
    Ok(ServerTrust(Arc::clone(kept)))
}

fn read_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::warn!(%error, "CA certificates of the system cannot be read");
    }
    // A store may hold some that are too old to be understood.
    let _count = roots.add_parsable_certificates(found.certs);
    roots
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pem() -> String {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec!["authority".to_owned()]).expect("a name");
        params.self_signed(&key).expect("signed").pem()
    }

    #[test]
    fn a_list_may_hold_several_authorities() {
        let trust = ServerTrust::of(format!("# old\n{}\n# new\n{}", pem(), pem()).as_bytes());
        let trust = trust.expect("two certificates");
        assert_eq!(trust.0.len(), 2);
        assert_eq!(trust.client().alpn_protocols, [PROTOCOL]);
    }

    #[test]
    fn a_reading_without_authorities_is_repeated_and_one_with_some_is_kept() {
        let found = OnceLock::new();
        let with = |pem: String| {
            let trust = ServerTrust::of(pem.as_bytes()).expect("a certificate");
            RootCertStore::clone(&trust.0)
        };
        let failed = first_found(&found, RootCertStore::empty);
        assert_eq!(failed.expect_err("none is found"), NoAuthority::System);
        let first = first_found(&found, || with(pem())).expect("one is found");
        let again = first_found(&found, RootCertStore::empty).expect("kept");
        assert!(Arc::ptr_eq(&first.0, &again.0));
    }

    #[test]
    fn a_list_without_certificates_or_with_something_else_is_refused() {
        let pem = pem();
        for (list, problem) in [
            ("", Problem::NoCertificate),
            (&pem[..pem.len() / 2], Problem::BrokenPem),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                Problem::BrokenCertificate,
            ),
        ] {
            let error = ServerTrust::of(list.as_bytes()).expect_err("no authority");
            assert_eq!(error, NoAuthority::List(problem));
        }
    }
}
