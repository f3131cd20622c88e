//! Certificates of listeners.

use std::{fmt, sync::Arc};

use hermes_core::certificate::{
    CertificateChanges, CertificatePem, CertificateState, CertificateStates, MAX_CERTIFICATES,
    MAX_PEM_BYTES,
};

use super::{Invalid, required, sorted};
use crate::v1::{self, listener_certificate::State};

/// Longest name in bytes: a namespace has 63, an object 253.
const MAX_NAME: usize = 320;

impl From<&CertificateChanges> for v1::CertificatesUpdate {
    fn from(changes: &CertificateChanges) -> Self {
        let set = |(name, state): (&Arc<str>, &CertificateState)| v1::ListenerCertificate {
            name: name.to_string(),
            state: Some(state.into()),
        };
        Self {
            set: changes.set.iter().map(set).collect(),
            gone: changes.gone.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<&CertificateState> for State {
    fn from(state: &CertificateState) -> Self {
        match state {
            CertificateState::Usable(pem) => Self::Usable(pem.into()),
            CertificateState::Absent => Self::Absent(v1::AbsentCertificate {}),
            CertificateState::Unusable { reason, last_good } => {
                Self::Unusable(v1::UnusableCertificate {
                    reason: reason.to_string(),
                    last_good: last_good.as_ref().map(Into::into),
                })
            }
        }
    }
}

impl From<&CertificatePem> for v1::CertificatePem {
    fn from(pem: &CertificatePem) -> Self {
        Self {
            chain: pem.chain.to_vec(),
            key: pem.key.to_vec(),
        }
    }
}

impl TryFrom<v1::CertificatesUpdate> for CertificateChanges {
    type Error = Invalid;

    fn try_from(wire: v1::CertificatesUpdate) -> Result<Self, Invalid> {
        let v1::CertificatesUpdate { set, gone } = wire;
        if set.len() > MAX_CERTIFICATES {
            return Err(Invalid::new("set", "has more than 256 certificates"));
        }
        sorted(&set, "set", |certificate| certificate.name.clone())?;
        let set = set.into_iter().enumerate();
        let set: Result<CertificateStates, Invalid> = set
            .map(|(at, certificate)| named(certificate).map_err(|invalid| invalid.at("set", at)))
            .collect();
        Ok(Self {
            set: set?,
            gone: gone.into_iter().map(Into::into).collect(),
        })
    }
}

fn named(wire: v1::ListenerCertificate) -> Result<(Arc<str>, CertificateState), Invalid> {
    let v1::ListenerCertificate { name, state } = wire;
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Invalid::new("name", "must have 1 to 320 bytes"));
    }
    let state = match required(state, "state")? {
        State::Usable(pem) => CertificateState::Usable(
            pem.try_into()
                .map_err(|bad: Invalid| bad.inside("usable"))?,
        ),
        State::Absent(v1::AbsentCertificate {}) => CertificateState::Absent,
        State::Unusable(v1::UnusableCertificate { reason, last_good }) => {
            let last_good = last_good.map(CertificatePem::try_from).transpose();
            CertificateState::Unusable {
                reason: reason.into(),
                last_good: last_good.map_err(|bad| bad.inside("unusable.last_good"))?,
            }
        }
    };
    Ok((name.into(), state))
}

impl TryFrom<v1::CertificatePem> for CertificatePem {
    type Error = Invalid;

    fn try_from(wire: v1::CertificatePem) -> Result<Self, Invalid> {
        let v1::CertificatePem { chain, key } = wire;
        for (field, bytes) in [("chain", &chain), ("key", &key)] {
            if bytes.is_empty() || bytes.len() > MAX_PEM_BYTES {
                return Err(Invalid::new(field, "must have 1 byte to 64 KiB"));
            }
        }
        Ok(Self {
            chain: chain.into(),
            key: key.into(),
        })
    }
}

/// Shows lengths only: one of both is a key.
impl fmt::Debug for v1::CertificatePem {
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

    fn pem(key: &[u8]) -> CertificatePem {
        CertificatePem {
            chain: b"chain".as_slice().into(),
            key: key.into(),
        }
    }

    fn changes() -> CertificateChanges {
        CertificateChanges {
            set: CertificateStates::from([
                ("ai/a".into(), CertificateState::Usable(pem(b"secret"))),
                ("ai/b".into(), CertificateState::Absent),
                (
                    "ai/c".into(),
                    CertificateState::Unusable {
                        reason: "tls.key holds no private key".into(),
                        last_good: Some(pem(b"secret")),
                    },
                ),
                (
                    "ai/d".into(),
                    CertificateState::Unusable {
                        reason: "not read yet".into(),
                        last_good: None,
                    },
                ),
            ]),
            gone: vec!["ai/e".into()],
        }
    }

    #[test]
    fn what_is_sent_comes_out_as_it_went_in() {
        let wire = v1::CertificatesUpdate::from(&changes());
        assert_eq!(CertificateChanges::try_from(wire), Ok(changes()));
    }

    #[test]
    fn no_message_prints_a_key() {
        let wire = v1::CertificatesUpdate::from(&changes());
        let text = format!("{wire:?}");
        assert!(text.contains("key_bytes: 6"), "{text}");
        assert!(!text.contains("secret"), "{text}");
        assert!(!text.contains("115, 101"), "not as bytes either: {text}");
    }

    #[test]
    fn each_field_that_is_wrong_is_named() {
        let wrong = |edit: fn(&mut v1::CertificatesUpdate)| {
            let mut wire = v1::CertificatesUpdate::from(&changes());
            edit(&mut wire);
            CertificateChanges::try_from(wire)
                .expect_err("it is wrong")
                .field
        };
        assert_eq!(wrong(|wire| wire.set.swap(0, 1)), "set[1]");
        assert_eq!(
            wrong(|wire| wire.set[0].name = "!".repeat(400)),
            "set[0].name"
        );
        assert_eq!(wrong(|wire| wire.set[1].state = None), "set[1].state");
        let key = |bytes: usize| v1::CertificatePem {
            chain: vec![1],
            key: vec![1; bytes],
        };
        let huge = v1::CertificatesUpdate {
            set: vec![v1::ListenerCertificate {
                name: "a".to_owned(),
                state: Some(State::Usable(key(MAX_PEM_BYTES + 1))),
            }],
            gone: Vec::new(),
        };
        let error = CertificateChanges::try_from(huge).expect_err("too large");
        assert_eq!(error.field, "set[0].usable.key");
        let many = v1::CertificatesUpdate {
            set: vec![v1::ListenerCertificate::default(); MAX_CERTIFICATES + 1],
            gone: Vec::new(),
        };
        let error = CertificateChanges::try_from(many).expect_err("too many");
        assert_eq!(error.field, "set");
    }
}
