//! TLS: between the planes mutual, by one folder of certificates, followed as it changes; toward
//! other servers by the authorities that are trusted ([`ServerTrust`]); toward clients that show no
//! certificate by a folder with the server's ([`ServerCertificate`]), or by several that are named
//! ([`CertificateFolders`]). Endpoint pickers are dialed without being verified
//! ([`unverified_http2`]).
//!
//! ```text
//!   DIR/ca.crt, tls.crt, tls.key ──every 500 ms──▶ same content? ──no──▶ check ──good──▶ ArcSwap: server and client
//!                                                                          └──bad──▶ log, metric; the last good stay
//! ```
//!
//! The layout is that of a Secret of the type `kubernetes.io/tls` with `ca.crt`, mounted as a
//! folder.
//!
//! Invariants:
//! * between the planes, each side shows a certificate and asks for one: a peer without one that the
//!   authority signed is rejected;
//! * a connection keeps the certificates that it began with, so that a rotation cuts nothing off;
//!   nothing is resumed, so that every new connection is checked by the newest ones;
//! * the content decides, not the time of change: a Secret is swapped by a symlink;
//! * keys reach no log, no error and no metric.
//!
//! Sockets are the planes' business: the control plane accepts, the data plane dials.

mod authority_list;
mod folder;
mod identity;
mod metrics;
mod named_certificates;
mod parties;
mod server_certificate;
mod trust;
mod unverified;

use std::{io, path::PathBuf};

pub use self::{
    authority_list::AuthorityList,
    folder::TlsFolder,
    named_certificates::{
        CertificateFolders, CertificateStore, NamedCertificate, WantedCertificate,
    },
    parties::Tls,
    server_certificate::ServerCertificate,
    trust::{NoAuthority, ServerTrust},
    unverified::unverified_http2,
};

/// The authority's certificates: several while one authority replaces another.
const AUTHORITY: &str = "ca.crt";
/// The process's own certificate, and what leads from it to the authority.
const CERTIFICATE: &str = "tls.crt";
/// The key of the certificate.
const KEY: &str = "tls.key";

/// Why a folder of certificates is not used. Names files, never what is in them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is absent, unreadable, or too large.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file was read, and holds something else.
    #[error("{file} in {} {problem}", folder.display())]
    Content {
        /// Which folder.
        folder: PathBuf,
        /// Which file in it.
        file: &'static str,
        /// What is wrong.
        problem: Problem,
    },
}

impl TlsError {
    /// Whether a file is not there.
    fn is_absent(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What is wrong with a file. The certificates' own text is not part of any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not PEM, or PEM of something else.
    #[error("holds no certificate in PEM")]
    NoCertificate,
    /// PEM with a section that is no certificate, where only certificates may be.
    #[error("holds a section that is no certificate, such as a private key")]
    OtherSection,
    /// PEM that cannot be read to its end.
    #[error("holds PEM that is broken")]
    BrokenPem,
    /// PEM around something that is no certificate.
    #[error("holds a certificate that cannot be read")]
    BrokenCertificate,
    /// Not a key, or an encrypted one.
    #[error("holds no private key in PEM, or one that is not supported")]
    NoKey,
    /// The key belongs to another certificate: one of the two files is older than the other.
    #[error("is not the key of the certificate in tls.crt")]
    OtherKey,
}
