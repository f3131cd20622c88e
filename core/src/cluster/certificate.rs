//! Certificates of listeners that the control plane sends to proxies, with their keys.
//!
//! They are no part of a snapshot: they travel by a call of their own, over connections on which
//! both sides have shown who they are.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// Most certificates at once.
pub const MAX_CERTIFICATES: usize = 256;

/// Longest chain, and longest key, in bytes of PEM.
pub const MAX_PEM_BYTES: usize = 64 << 10;

/// A certificate and its key, both in PEM. `Debug` shows their lengths only.
#[derive(Clone, PartialEq, Eq)]
pub struct CertificatePem {
    /// The certificate, and what leads from it to an authority.
    pub chain: Arc<[u8]>,
    /// The private key.
    pub key: Arc<[u8]>,
}

/// What the control plane has under the name of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateState {
    /// A certificate that may be used.
    Usable(CertificatePem),
    /// There was none, or there is none any more: the last one is not to be used.
    Absent,
    /// Something else, or nothing is known at the moment: the last good one stays in use.
    Unusable {
        /// Why. It has nothing of what was read.
        reason: Arc<str>,
        /// The last good one, if the replica has it.
        last_good: Option<CertificatePem>,
    },
}

/// All that listeners may use, by name.
pub type CertificateStates = BTreeMap<Arc<str>, CertificateState>;

/// What changed since the last message; in the first one, everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateChanges {
    /// These are new, or other ones than before.
    pub set: CertificateStates,
    /// These names may not be used any more.
    pub gone: Vec<Arc<str>>,
}

/// Whether a certificate of this name is sent by the control plane: it is `namespace/name` of a
/// Secret. Others are files of the proxy.
#[must_use]
pub fn is_sent(name: &str) -> bool {
    name.contains('/')
}

// === CertificateChanges ===

impl CertificateChanges {
    /// What leads from `old` to `new`.
    #[must_use]
    pub fn between(old: &CertificateStates, new: &CertificateStates) -> Self {
        let changed = new
            .iter()
            .filter(|(name, state)| old.get(*name) != Some(state));
        let gone = old.keys().filter(|name| !new.contains_key(*name));
        Self {
            set: changed
                .map(|(name, state)| (Arc::clone(name), state.clone()))
                .collect(),
            gone: gone.cloned().collect(),
        }
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.gone.is_empty()
    }
}

// === CertificatePem ===

impl fmt::Debug for CertificatePem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chain, key } = self;
        f.debug_struct("CertificatePem")
            .field("chain_bytes", &chain.len())
            .field("key_bytes", &key.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(text: &str) -> CertificatePem {
        CertificatePem {
            chain: text.as_bytes().into(),
            key: b"secret key".as_slice().into(),
        }
    }

    #[test]
    fn changes_are_what_differs_and_what_is_missing() {
        let usable = |text: &str| CertificateState::Usable(pem(text));
        let old = CertificateStates::from([
            ("a".into(), usable("1")),
            ("b".into(), usable("1")),
            ("c".into(), CertificateState::Absent),
        ]);
        let new = CertificateStates::from([
            ("a".into(), usable("1")),
            ("b".into(), usable("2")),
            ("d".into(), usable("1")),
        ]);
        let changes = CertificateChanges::between(&old, &new);
        assert!(changes.set.keys().map(AsRef::as_ref).eq(["b", "d"]));
        assert_eq!(changes.gone, [Arc::from("c")]);
        assert!(CertificateChanges::between(&new, &new).is_empty());
        assert_eq!(
            CertificateChanges::between(&CertificateStates::new(), &new).set,
            new
        );
    }

    #[test]
    fn no_key_is_in_what_is_printed_for_people() {
        let state = CertificateState::Unusable {
            reason: "broken".into(),
            last_good: Some(pem("chain")),
        };
        let text = format!("{state:?} {:?}", pem("chain"));
        assert!(!text.contains("secret"), "{text}");
        assert!(!text.contains("115"), "not as bytes either: {text}");
    }
}
