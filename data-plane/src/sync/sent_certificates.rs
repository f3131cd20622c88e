//! The certificates of listeners that the control plane has sent. Pure, but for the log.

use std::{collections::BTreeMap, sync::Arc};

use hermes_core::certificate::{CertificateChanges, CertificatePem, CertificateState};
use hermes_runtime::tls::NamedCertificate;

/// What was sent, by name; kept while no control plane can be reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct SentCertificates {
    certificates: BTreeMap<Arc<str>, SentCertificate>,
    /// Why none is sent at the moment.
    silence: Option<Arc<str>>,
}

/// What was sent under one name. It has no PEM: the key is kept once, as handshakes need it.
#[derive(Clone, Debug, Default)]
struct SentCertificate {
    /// The last good one.
    good: Option<Arc<NamedCertificate>>,
    /// Why there is none, or not the newest one.
    problem: Option<Arc<str>>,
}

// === SentCertificates ===

impl SentCertificates {
    /// The certificate of this name.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<NamedCertificate>> {
        self.certificates.get(name)?.good.as_ref()
    }

    /// Why there is no certificate of this name, or not the newest one.
    pub(crate) fn problem(&self, name: &str) -> Option<String> {
        let sent = self.certificates.get(name);
        let reason = match (sent, &self.silence) {
            (
                Some(SentCertificate {
                    good: Some(_),
                    problem,
                }),
                _,
            ) => problem.as_deref()?,
            (_, Some(silence)) => silence,
            (Some(SentCertificate { problem, .. }), None) => problem.as_deref()?,
            (None, None) => "the control plane has sent none yet",
        };
        Some(format!("certificate {name}: {reason}"))
    }

    /// Notes why none is sent at the moment; those that were sent stay.
    pub(super) fn silenced(&self, reason: &str) -> Self {
        Self {
            certificates: self.certificates.clone(),
            silence: Some(reason.into()),
        }
    }

    /// Takes a message in. The first one of a stream has everything: what it lacks is gone.
    pub(super) fn with(&self, changes: CertificateChanges, is_first: bool) -> Self {
        let CertificateChanges { set, gone } = changes;
        let mut certificates = self.certificates.clone();
        for (name, _) in certificates.extract_if(.., |name, _| {
            gone.contains(name) || (is_first && !set.contains_key(name))
        }) {
            tracing::info!(certificate = &*name, "a certificate is not used any more");
        }
        for (name, state) in set {
            let known = certificates.remove(&name).unwrap_or_default();
            let sent = known.with(&name, state);
            certificates.insert(name, sent);
        }
        Self {
            certificates,
            silence: None,
        }
    }
}

// === SentCertificate ===

impl SentCertificate {
    fn with(self, name: &str, state: CertificateState) -> Self {
        match state {
            CertificateState::Usable(pem) => self.read(name, &pem, None),
            CertificateState::Absent => {
                if self.good.is_some() {
                    tracing::warn!(certificate = name, "the Secret of a certificate is gone");
                }
                Self {
                    good: None,
                    problem: Some("there is no such Secret".into()),
                }
            }
            CertificateState::Unusable { reason, last_good } => match last_good {
                Some(pem) => self.read(name, &pem, Some(reason)),
                None => Self {
                    good: self.good,
                    problem: Some(reason),
                },
            },
        }
    }

    /// The certificate of this PEM; the last good one if it is none.
    fn read(self, name: &str, pem: &CertificatePem, problem: Option<Arc<str>>) -> Self {
        let Self { good, .. } = self;
        match NamedCertificate::of(&pem.chain, &pem.key) {
            Ok(read) => {
                let is_known = good
                    .as_ref()
                    .is_some_and(|good| good.key().cert == read.key().cert);
                if !is_known {
                    tracing::info!(certificate = name, ?read, "a certificate was sent");
                }
                let good = good.filter(|_| is_known);
                Self {
                    good: Some(good.unwrap_or_else(|| Arc::new(read))),
                    problem,
                }
            }
            Err((file, wrong)) => {
                let problem = format!("{file} {wrong}");
                tracing::warn!(
                    certificate = name,
                    problem,
                    "a certificate is refused, the last good one stays"
                );
                Self {
                    good,
                    problem: Some(problem.into()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hermes_core::certificate::CertificateStates;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pem(host: &str) -> CertificatePem {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        let chain = params.self_signed(&key).expect("signed").pem();
        CertificatePem {
            chain: chain.as_bytes().into(),
            key: key.serialize_pem().as_bytes().into(),
        }
    }

    fn set(states: &[(&str, CertificateState)]) -> CertificateChanges {
        let state = |(name, state): &(&str, CertificateState)| (Arc::from(*name), state.clone());
        CertificateChanges {
            set: states.iter().map(state).collect::<CertificateStates>(),
            gone: Vec::new(),
        }
    }

    fn unusable(reason: &str, last_good: Option<CertificatePem>) -> CertificateState {
        CertificateState::Unusable {
            reason: reason.into(),
            last_good,
        }
    }

    /// After a first message that has `a` for `a.com`.
    fn with_a() -> SentCertificates {
        let a = CertificateState::Usable(pem("a.com"));
        SentCertificates::default().with(set(&[("ai/a", a)]), true)
    }

    #[test]
    fn what_the_first_message_of_a_stream_lacks_is_gone() {
        let sent = with_a();
        let b = || CertificateState::Usable(pem("b.com"));
        let later = sent.with(set(&[("ai/b", b())]), false);
        assert!(later.find("ai/a").is_some() && later.find("ai/b").is_some());
        let first = sent.with(set(&[("ai/b", b())]), true);
        assert!(first.find("ai/a").is_none() && first.find("ai/b").is_some());
        let gone = CertificateChanges {
            gone: vec!["ai/a".into()],
            ..CertificateChanges::default()
        };
        assert!(sent.with(gone, false).find("ai/a").is_none());
    }

    #[test]
    fn a_replica_that_knows_nothing_yet_takes_nothing_away() {
        let sent = with_a().with(set(&[("ai/a", unusable("not read yet", None))]), true);
        assert!(sent.find("ai/a").is_some());
        assert!(
            sent.problem("ai/a")
                .is_some_and(|text| text.contains("not read yet"))
        );
        let sent = sent.with(set(&[("ai/a", CertificateState::Absent)]), false);
        assert!(sent.find("ai/a").is_none(), "its Secret was deleted");
        let sent = sent.with(
            set(&[("ai/a", unusable("broken", Some(pem("a.com"))))]),
            false,
        );
        assert!(sent.find("ai/a").is_some(), "the replica's last good one");
    }

    #[test]
    fn while_nothing_is_sent_the_last_ones_stay_and_what_is_missing_has_the_reason() {
        let sent = with_a().silenced("no control plane answers");
        assert!(sent.find("ai/a").is_some());
        assert_eq!(sent.problem("ai/a"), None);
        let expected = "certificate ai/b: no control plane answers";
        assert_eq!(sent.problem("ai/b").as_deref(), Some(expected));
        let yet = SentCertificates::default().problem("ai/b");
        assert!(yet.is_some_and(|text| text.contains("has sent none yet")));
    }

    #[test]
    fn the_same_certificate_again_is_the_same_and_a_broken_one_is_refused() {
        let usable = CertificateState::Usable(pem("a.com"));
        let sent = SentCertificates::default().with(set(&[("ai/a", usable.clone())]), true);
        let again = sent.with(set(&[("ai/a", usable)]), true);
        let (first, second) = (sent.find("ai/a"), again.find("ai/a"));
        assert!(Arc::ptr_eq(first.expect("sent"), second.expect("sent")));
        let broken = CertificatePem {
            chain: pem("a.com").chain,
            key: pem("a.com").key,
        };
        let sent = again.with(set(&[("ai/a", CertificateState::Usable(broken))]), false);
        assert!(Arc::ptr_eq(
            second.expect("sent"),
            sent.find("ai/a").expect("it stays")
        ));
        assert!(
            sent.problem("ai/a")
                .is_some_and(|text| text.contains("tls.key"))
        );
    }

    #[test]
    fn no_key_is_in_what_is_printed() {
        let pem = pem("a.com");
        let key = String::from_utf8(pem.key.to_vec()).expect("text");
        let usable = CertificateState::Usable(pem);
        let sent = SentCertificates::default().with(set(&[("ai/a", usable)]), true);
        let (text, line) = (format!("{sent:?}"), key.lines().nth(1).expect("a line"));
        assert!(text.contains("a.com"), "{text}");
        assert!(!text.contains(line) && !text.contains("PRIVATE"), "{text}");
    }
}
