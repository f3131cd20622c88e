//! Writes Services: which change is next, and how it is made.
//!
//! Equal replicas write without an election: all apply the same Service as the same field manager,
//! each only where it differs, and each after a pause of its own, after which another one has
//! usually written.
//!
//! Invariants:
//! * a second write of one change comes later each time: replicas that disagree, as during an
//!   upgrade, do not contend for long;
//! * a write has a deadline;
//! * only the very Service that was seen is changed or deleted, never another one of its name.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use hermes_core::backoff::Backoff;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{
    FIELD_MANAGER,
    metrics::ServiceWriteOutcome,
    plan::{FailedChanges, ServiceChange},
};

/// How long one write may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// The first pause before a change is made again, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// Longest reason that is kept, in bytes.
const REASON: usize = 400;

/// What was written, and when it may be written again.
#[derive(Debug, Default)]
pub(super) struct WrittenServices(BTreeMap<Arc<str>, WrittenService>);

#[derive(Debug)]
struct WrittenService {
    change: ServiceChange,
    again: Instant,
    backoff: Backoff,
    failure: Option<Arc<str>>,
}

/// What may be written next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum NextServiceWrite {
    /// This one, now.
    Now(Arc<str>, ServiceChange),
    /// One that was written before, then.
    At(Instant),
    /// Nothing.
    Never,
}

// === WrittenServices ===

impl WrittenServices {
    /// Which of the changes that are due is to be made next.
    pub(super) fn next(
        &mut self,
        due: &BTreeMap<Arc<str>, ServiceChange>,
        now: Instant,
    ) -> NextServiceWrite {
        self.0
            .retain(|name, written| due.contains_key(name) || written.again + AGAIN.1 > now);
        let mut earliest: Option<Instant> = None;
        for (name, change) in due {
            let written = self.0.get(name);
            match written.filter(|written| written.change == *change) {
                Some(written) if written.again > now => {
                    let first = earliest.map_or(written.again, |at| at.min(written.again));
                    earliest = Some(first);
                }
                _ => return NextServiceWrite::Now(Arc::clone(name), change.clone()),
            }
        }
        earliest.map_or(NextServiceWrite::Never, NextServiceWrite::At)
    }

    /// Notes that a change was made, or why not.
    pub(super) fn note(
        &mut self,
        name: Arc<str>,
        change: ServiceChange,
        failure: Option<Arc<str>>,
        now: Instant,
    ) {
        let known = self.0.remove(&name);
        let known = known.filter(|known| known.change == change);
        let seed = RandomState::new().hash_one(&name);
        let mut backoff = known.map_or_else(|| Backoff::new(AGAIN, seed), |known| known.backoff);
        let again = now + backoff.next_pause();
        let written = WrittenService {
            change,
            again,
            backoff,
            failure,
        };
        self.0.insert(name, written);
    }

    /// Why the last changes failed, of those that did.
    pub(super) fn failed(&self) -> FailedChanges {
        let failures = self.0.iter();
        failures
            .filter_map(|(name, written)| Some((Arc::clone(name), written.failure.clone()?)))
            .collect()
    }
}

// === Writing ===

/// Makes one change. Returns why not, if it was not made.
pub(super) async fn make(
    api: &Api<Service>,
    (namespace, name): (&str, &str),
    change: &ServiceChange,
) -> (ServiceWriteOutcome, Option<Arc<str>>) {
    let (made, outcome) = match change {
        ServiceChange::Apply { manifest, uid } => {
            let mut object = manifest.object(namespace, name);
            let mut parameters = PatchParams::apply(FIELD_MANAGER);
            if let Some(uid) = uid {
                // It is ours: fields that someone else has set are taken back.
                object["metadata"]["uid"] = json!(uid);
                parameters = parameters.force();
            }
            let patch = Patch::Apply(&object);
            let applied = timeout(DEADLINE, api.patch(name, &parameters, &patch)).await;
            let applied = applied.map(|applied| applied.map(drop));
            (applied, ServiceWriteOutcome::Applied)
        }
        ServiceChange::Delete { uid } => {
            let parameters = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: Some(uid.to_string()),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            let deleted = timeout(DEADLINE, api.delete(name, &parameters)).await;
            let deleted = deleted.map(|deleted| deleted.map(drop));
            (deleted, ServiceWriteOutcome::Deleted)
        }
    };
    match made {
        Ok(Ok(())) => (outcome, None),
        Ok(Err(error)) => (ServiceWriteOutcome::Refused, Some(reason(&error))),
        Err(_) => {
            let late = format!("no answer within {DEADLINE:?}");
            (ServiceWriteOutcome::Timeout, Some(late.into()))
        }
    }
}

/// What the API server says, in a bounded length.
pub(super) fn reason(error: &kube::Error) -> Arc<str> {
    let text = match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    };
    let end = text.floor_char_boundary(REASON.min(text.len()));
    text[..end].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(names: &[&str]) -> BTreeMap<Arc<str>, ServiceChange> {
        let delete = |name: &&str| (Arc::from(*name), delete("1"));
        names.iter().map(delete).collect()
    }

    fn delete(uid: &str) -> ServiceChange {
        ServiceChange::Delete { uid: uid.into() }
    }

    fn is_now(next: &NextServiceWrite) -> bool {
        matches!(next, NextServiceWrite::Now(..))
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_does_not_last_is_made_ever_later() {
        let (mut written, mut now) = (WrittenServices::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..12 {
            written.note("a".into(), delete("1"), None, now);
            // It was right for a while, and then another replica changed it.
            assert_eq!(written.next(&due(&[]), now), NextServiceWrite::Never);
            let NextServiceWrite::At(time) = written.next(&due(&["a"]), now) else {
                panic!("it was just written");
            };
            pauses.push(time - now);
            now = time;
            assert!(is_now(&written.next(&due(&["a"]), now)));
        }
        assert!(pauses[0] <= AGAIN.0, "{pauses:?}");
        assert!(pauses[11] >= AGAIN.1 / 2, "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn another_change_is_made_at_once_and_one_that_fails_delays_no_other() {
        let (mut written, now) = (WrittenServices::default(), Instant::now());
        written.note("a".into(), delete("0"), Some("no".into()), now);
        assert!(is_now(&written.next(&due(&["a"]), now)));
        written.note("a".into(), delete("1"), Some("no".into()), now);
        let next = written.next(&due(&["a", "b"]), now);
        assert_eq!(next, NextServiceWrite::Now("b".into(), delete("1")));
        assert_eq!(written.failed()["a"].as_ref(), "no");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_long_right_is_forgotten() {
        let (mut written, now) = (WrittenServices::default(), Instant::now());
        written.note("a".into(), delete("1"), None, now);
        written.next(&due(&[]), now + AGAIN.1 * 2);
        assert!(written.0.is_empty());
    }
}
