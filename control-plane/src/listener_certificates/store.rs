//! What is known of the Secrets that are followed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use hermes_core::certificate::{CertificatePem, CertificateState, CertificateStates};
use kube::{
    core::{DeserializeGuard, DynamicObject},
    runtime::watcher::Event,
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{SecretName, SecretState, secret};
use crate::discovery::{FailureLog, ObjectIndex, RelistDiff, RelistOutcome, WatchError, WatchSink};

/// The Secrets that are followed.
#[derive(Debug, Default)]
pub(super) struct SecretStore {
    secrets: Mutex<BTreeMap<SecretName, FollowedSecret>>,
    log: Mutex<FailureLog>,
    changed: Notify,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FollowedSecret {
    /// `None` before there was an answer.
    state: Option<SecretState>,
    /// The last good one.
    pem: Option<CertificatePem>,
}

/// What the watch of one Secret reports to.
#[derive(Clone, Debug)]
pub(super) struct SecretSink {
    pub(super) store: Arc<SecretStore>,
    pub(super) name: SecretName,
}

/// One Secret while an event is taken in.
struct SecretIndex<'a>(&'a mut FollowedSecret);

/// Why a watch failed, without anything of an answer that cannot be parsed.
fn reason_of(error: &WatchError) -> String {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        if error.is::<serde_json::Error>() {
            return "the answer of the API server cannot be read".to_owned();
        }
        cause = error.source();
    }
    error.to_string()
}

// === SecretStore ===

impl SecretStore {
    /// From now on these are followed; what is known of others is forgotten.
    pub(super) fn retain(&self, names: &BTreeSet<SecretName>) {
        let mut secrets = self.secrets.lock();
        secrets.retain(|name, _| names.contains(name));
        for name in names {
            secrets.entry(name.clone()).or_default();
        }
    }

    /// Waits until something changed since the last call, however often.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What is known of each, of those of which anything is.
    pub(super) fn states(&self) -> BTreeMap<SecretName, SecretState> {
        let secrets = self.secrets.lock();
        let known = secrets
            .iter()
            .filter_map(|(name, secret)| Some((name.clone(), secret.state.clone()?)));
        known.collect()
    }

    /// What proxies are sent of each.
    pub(super) fn certificates(&self) -> CertificateStates {
        let secrets = self.secrets.lock();
        let sent = |(name, secret): (&SecretName, &FollowedSecret)| {
            (Arc::from(name.to_string()), secret.certificate())
        };
        secrets.iter().map(sent).collect()
    }

    /// Edits what is known of a Secret that is still followed. Returns whether that is news.
    fn edit(&self, name: &SecretName, edit: impl FnOnce(&mut FollowedSecret)) -> bool {
        let mut secrets = self.secrets.lock();
        let Some(secret) = secrets.get_mut(name) else {
            return false;
        };
        let before = secret.clone();
        edit(secret);
        let is_news = *secret != before;
        if is_news {
            self.changed.notify_one();
        }
        is_news
    }
}

// === FollowedSecret ===

impl FollowedSecret {
    fn certificate(&self) -> CertificateState {
        let unusable = |reason: Arc<str>| CertificateState::Unusable {
            reason,
            last_good: self.pem.clone(),
        };
        match (&self.state, &self.pem) {
            (Some(SecretState::Usable), Some(pem)) => CertificateState::Usable(pem.clone()),
            (Some(SecretState::Absent), _) => CertificateState::Absent,
            (Some(SecretState::Invalid(reason) | SecretState::Unknown(reason)), _) => {
                unusable(Arc::clone(reason))
            }
            (None | Some(SecretState::Usable), _) => unusable("it was not read yet".into()),
        }
    }

    fn set(&mut self, object: &DynamicObject) {
        match secret::read(object) {
            Ok(pem) => (self.state, self.pem) = (Some(SecretState::Usable), Some(pem)),
            Err(error) => self.state = Some(SecretState::Invalid(error.to_string().into())),
        }
    }

    fn clear(&mut self) {
        (self.state, self.pem) = (Some(SecretState::Absent), None);
    }
}

// === SecretIndex ===

impl ObjectIndex<DynamicObject> for SecretIndex<'_> {
    fn apply(&mut self, object: DynamicObject) -> bool {
        self.0.set(&object);
        true
    }

    fn delete(&mut self, _key: &str) -> bool {
        self.0.clear();
        true
    }

    fn reset(&mut self, listed: Vec<DynamicObject>, _gone: &BTreeSet<String>) -> bool {
        match listed.first() {
            Some(object) => self.0.set(object),
            None => self.0.clear(),
        }
        true
    }
}

// === SecretSink ===

impl WatchSink<DynamicObject> for SecretSink {
    fn receive(
        &self,
        _kind: &'static str,
        relist: &mut RelistDiff<DynamicObject>,
        event: Event<DeserializeGuard<DynamicObject>>,
    ) -> RelistOutcome {
        let (mut outcome, mut state) = (RelistOutcome::Listing, None);
        let is_news = self.store.edit(&self.name, |secret| {
            outcome = relist.fold(event, &mut SecretIndex(secret));
            state.clone_from(&secret.state);
        });
        if is_news {
            tracing::info!(secret = %self.name, ?state, "the Secret of a listener changed");
        }
        if matches!(outcome, RelistOutcome::Listed { .. }) && self.store.log.lock().works() {
            tracing::info!("watches of Secrets work again");
        }
        outcome
    }

    fn report_failure(&self, _kind: &'static str, error: &WatchError) -> Duration {
        let reason = reason_of(error);
        if self.store.log.lock().fails(Instant::now()) {
            tracing::warn!(secret = %self.name, %reason, "the watch of a Secret failed; the last known certificate stays, and it is tried again");
        }
        self.store.edit(&self.name, |secret| {
            // One that was read is what it was.
            if matches!(secret.state, None | Some(SecretState::Unknown(_))) {
                secret.state = Some(SecretState::Unknown(reason.into()));
            }
        });
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher;

    use super::*;

    #[test]
    fn an_answer_that_cannot_be_parsed_is_not_quoted() {
        let broken = serde_json::from_str::<bool>("\"secret\"").expect_err("no flag");
        assert!(broken.to_string().contains("secret"), "{broken}");
        let error = watcher::Error::WatchFailed(kube::Error::SerdeError(broken));
        let reason = reason_of(&error.into());
        assert!(!reason.contains("secret"), "{reason}");
    }
}
