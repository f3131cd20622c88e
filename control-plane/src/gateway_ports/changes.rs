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

use std::{collections::BTreeMap, sync::Arc, time::Duration};

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
use crate::paced_writes::{AGAIN, NextWrite, ObjectWrite, PacedWrites};

/// How long one write may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// Longest reason that is kept, in bytes.
const REASON: usize = 400;

/// What was written, and why the last writes failed, of those that did.
#[derive(Debug, Default)]
pub(super) struct WrittenServices {
    writes: PacedWrites<Arc<str>, ServiceChange>,
    failed: FailedChanges,
}

/// What may be written next.
pub(super) type NextServiceWrite = NextWrite<Arc<str>, ServiceChange>;

// === WrittenServices ===

impl WrittenServices {
    /// Which of the changes that are due is to be made next.
    pub(super) fn next(
        &mut self,
        due: &BTreeMap<Arc<str>, ServiceChange>,
        now: Instant,
    ) -> NextServiceWrite {
        self.writes
            .retain(|name, again| due.contains_key(name) || again + AGAIN.1 > now);
        self.failed.retain(|name, _| self.writes.contains(name));
        self.writes.next(due, now)
    }

    /// Notes that a change was made, or why not.
    pub(super) fn note(
        &mut self,
        name: Arc<str>,
        change: ServiceChange,
        failure: Option<Arc<str>>,
        now: Instant,
    ) {
        match failure {
            Some(reason) => self.failed.insert(Arc::clone(&name), reason),
            None => self.failed.remove(&name),
        };
        self.writes.note(name, change, now);
    }

    /// Why the last changes failed, of those that did.
    pub(super) const fn failed(&self) -> &FailedChanges {
        &self.failed
    }
}

impl ObjectWrite for ServiceChange {
    fn is_same(&self, other: &Self) -> bool {
        self == other
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
        assert!(!written.writes.contains(&"a".into()));
    }
}
