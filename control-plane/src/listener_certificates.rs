//! Certificates of listeners from Secrets.
//!
//! Only Secrets that listeners may use are read. What is in them goes to the proxies by a call of
//! its own, and to nothing else: no snapshot, log, span, metric or debug page has a key.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

/// What a Secret is called. A listener names its certificate like this.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
}

/// The Secrets that listeners may use; none while no listener has any.
pub type AllowedSecrets = Arc<BTreeSet<SecretName>>;

/// What is known of each Secret that is allowed. One that is absent was not asked for yet.
pub type SecretStates = Arc<BTreeMap<SecretName, SecretState>>;

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
