//! Certificates of listeners from Secrets.
//!
//! ```text
//!   Gateways ──AllowedSecrets──▶ a watch for each ──▶ store ─┬─SecretStates──▶ status of Gateways
//!                                                            └─CertificateStates──▶ serve ──▶ proxies
//! ```
//!
//! Only Secrets that listeners may use are read, each by a watch on its name: a Role that names them
//! is enough. What is in them goes to the proxies by a call of its own, and to nothing else.
//!
//! Invariants:
//! * no snapshot, log, span, metric or debug page has a key;
//! * a Secret that cannot be read, or holds something else, leaves its last good version in use; one
//!   that is deleted does not;
//! * while no Secret is allowed nothing is watched, and no right is needed.

mod feed;
mod metrics;
mod secret;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use hermes_core::certificate::CertificateStates;

pub use self::{feed::CertificateFeed, metrics::SecretMetrics};

/// What a Secret is called. A listener names its certificate like this.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
}

/// The Secrets that listeners may use; `None` before that is known, and while no listener can have
/// any.
pub type AllowedSecrets = Option<Arc<BTreeSet<SecretName>>>;

/// What is known of each Secret that is allowed. One that is absent was not asked for yet.
pub type SecretStates = Arc<BTreeMap<SecretName, SecretState>>;

/// What proxies are sent; `None` before it is known which Secrets are allowed.
pub type NewestCertificates = Option<Arc<CertificateStates>>;

/// What is known of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretState {
    /// It is a certificate with its key, which proxies get.
    Usable,
    /// There is no such Secret.
    Absent,
    /// It is no certificate with its key, and why. Proxies keep the last good one.
    Invalid(Arc<str>),
    /// The API server does not answer, or refuses, and why. Proxies keep the last good one.
    Unknown(Arc<str>),
}

// === SecretName ===

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name } = self;
        write!(f, "{namespace}/{name}")
    }
}
