//! Writes the status of objects: conditions, and the parts of Gateways.
//!
//! ```text
//!   StatusBoard (wanted, observed) ──differs──▶ due ──apply, at most one at a time──▶ API server
//!        ▲                                                                              │
//!        └──────────────────────────── watch ◀──────────────────────────────────────────┘
//! ```
//!
//! Equal replicas write without an election: all apply the same condition as the same field manager,
//! each only where the object says something else, and each after a pause of its own, after which
//! another one has usually written.
//!
//! Invariants:
//! * nothing is sent while an object says what it should;
//! * writes are [`PAUSE`] apart, and a second write of one status to one object comes later each
//!   time: replicas that disagree, as during an upgrade, do not contend for long;
//! * a list with entries of other controllers replaces the version that it was made from, or none;
//! * a write has a deadline, and nothing waits for it.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use hermes_core::rng::SeededRng;
use jiff::Timestamp;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    core::DynamicObject,
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    catalog::{ObjectKey, ObservedStatus},
    condition::{AcceptedCondition, ObservedCondition},
    metrics::{ObjectMetrics, WriteOutcome},
};
use crate::{
    gateway_api::GatewayApiStatus,
    paced_writes::{NextWrite, ObjectWrite, PacedWrites},
};

/// The field manager of the conditions.
const MANAGER: &str = "hermes";

/// Time between two writes of this replica.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest pause before the first write, drawn by each replica.
const SPREAD: Duration = Duration::from_secs(1);

/// How long one write may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// What each object should say, and says.
pub(crate) type StatusBoard = BTreeMap<ObjectKey, StatusEntry>;

/// What one object should say, and says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StatusEntry {
    /// The condition `Accepted` alone.
    Accepted {
        wanted: AcceptedCondition,
        observed: Option<ObservedCondition>,
    },
    /// The part of a Gateway's controller.
    GatewayApi {
        wanted: GatewayApiStatus,
        observed: Arc<ObservedStatus>,
    },
}

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct WrittenStatuses(PacedWrites<ObjectKey, StatusEntry>);

/// What may be written next.
type NextStatusWrite = NextWrite<ObjectKey, StatusEntry>;

// === WrittenStatuses ===

impl WrittenStatuses {
    /// What is to be written next to make `board` true.
    pub(crate) fn next(&mut self, board: &StatusBoard, now: Instant) -> NextStatusWrite {
        self.0.retain(|key, _| board.contains_key(key));
        let due = board.iter().filter(|(_, entry)| !entry.is_right());
        self.0.next(due, now)
    }

    /// Notes that a status was written, or could not be.
    pub(crate) fn note(&mut self, key: ObjectKey, entry: StatusEntry, now: Instant) {
        self.0.note(key, entry, now);
    }
}

// === StatusEntry ===

impl StatusEntry {
    /// Whether the object says what it should.
    fn is_right(&self) -> bool {
        match self {
            Self::Accepted { wanted, observed } => {
                observed.as_ref().is_some_and(|seen| seen.is(wanted))
            }
            Self::GatewayApi { wanted, observed } => wanted.is_in(&observed.status),
        }
    }

    /// The status to apply, and the version of the object that it must replace, if any.
    fn to_apply(&self, now: &str) -> (Value, Option<&str>) {
        match self {
            Self::Accepted { wanted, observed } => (wanted.status(observed.as_ref(), now), None),
            Self::GatewayApi { wanted, observed } => {
                let version = observed.version.as_deref();
                let version = version.filter(|_| wanted.replaces_others());
                (wanted.wanted(&observed.status, now), version)
            }
        }
    }
}

impl ObjectWrite for StatusEntry {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Accepted { wanted, .. }, Self::Accepted { wanted: other, .. }) => {
                wanted == other
            }
            (Self::GatewayApi { wanted, .. }, Self::GatewayApi { wanted: other, .. }) => {
                wanted == other
            }
            _ => false,
        }
    }
}

// === Writing ===

/// Writes what differs, for ever.
///
/// `conflicted` is called when a newer version of an object was there than the one that was to be
/// replaced.
pub(crate) async fn write(
    client: &Client,
    mut boards: watch::Receiver<Arc<StatusBoard>>,
    metrics: &ObjectMetrics,
    conflicted: impl Fn(),
) {
    let mut written = WrittenStatuses::default();
    let mut rng = SeededRng::new(RandomState::new().hash_one(MANAGER));
    loop {
        let board = Arc::clone(&boards.borrow_and_update());
        match written.next(&board, Instant::now()) {
            NextWrite::Now(..) => {}
            NextWrite::At(time) => {
                tokio::select! {
                    () = sleep_until(time) => {}
                    changed = boards.changed() => if changed.is_err() { return },
                }
                continue;
            }
            NextWrite::Never => {
                if boards.changed().await.is_err() {
                    return;
                }
            }
        }
        // Another replica may write meanwhile.
        sleep(SPREAD.mul_f32(rng.unit())).await;
        loop {
            let board = Arc::clone(&boards.borrow_and_update());
            let NextWrite::Now(key, entry) = written.next(&board, Instant::now()) else {
                break;
            };
            let outcome = apply(client, &key, &entry).await;
            metrics.status_written(outcome);
            if outcome == WriteOutcome::Conflict {
                conflicted();
            }
            written.note(key, entry, Instant::now());
            sleep(PAUSE).await;
        }
    }
}

/// Applies one status.
async fn apply(client: &Client, key: &ObjectKey, entry: &StatusEntry) -> WriteOutcome {
    let (kind, namespace, name) = key;
    let resource = kind.resource();
    let api: Api<DynamicObject> = if kind.is_cluster_wide() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    };
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (status, version) = entry.to_apply(&now);
    let mut object: Value = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": **name},
        "status": status,
    });
    if !kind.is_cluster_wide() {
        object["metadata"]["namespace"] = json!(**namespace);
    }
    if let Some(version) = version {
        object["metadata"]["resourceVersion"] = json!(version);
    }
    let parameters = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(&object);
    match timeout(DEADLINE, api.patch_status(name, &parameters, &patch)).await {
        Ok(Ok(_)) => WriteOutcome::Written,
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => WriteOutcome::Conflict,
        Ok(Err(error)) => {
            tracing::debug!(kind = kind.name(), %namespace, %name, %error, "status was not written");
            WriteOutcome::Refused
        }
        Err(_) => WriteOutcome::Timeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        objects::{kind::ObjectKind, verdict::ObjectVerdict},
        paced_writes::AGAIN,
    };

    fn key(name: &str) -> ObjectKey {
        (ObjectKind::Model, "ai".into(), name.into())
    }

    fn wanted(note: &str) -> AcceptedCondition {
        let verdict = ObjectVerdict::Accepted(Some(note.to_owned()));
        AcceptedCondition::of(&verdict, 1).expect("it is ours")
    }

    /// An object that should say `note` and says `says`.
    fn board(note: &str, says: Option<&str>) -> StatusBoard {
        let observed = says.map(|says| {
            let status = wanted(says).status(None, "2026-01-01T00:00:00Z");
            ObservedCondition::read(&json!({"status": status})).expect("a condition")
        });
        let wanted = wanted(note);
        BTreeMap::from([(key("m"), StatusEntry::Accepted { wanted, observed })])
    }

    /// What was written of a condition.
    fn entry(note: &str) -> StatusEntry {
        StatusEntry::Accepted {
            wanted: wanted(note),
            observed: None,
        }
    }

    fn is_now(next: &NextStatusWrite) -> bool {
        matches!(next, NextWrite::Now(..))
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_written_where_the_object_says_what_it_should() {
        let (mut written, now) = (WrittenStatuses::default(), Instant::now());
        assert_eq!(written.next(&board("a", Some("a")), now), NextWrite::Never);
        assert!(is_now(&written.next(&board("a", None), now)));
        assert!(is_now(&written.next(&board("a", Some("b")), now)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_condition_that_others_change_again_is_written_ever_later() {
        let (mut written, mut now) = (WrittenStatuses::default(), Instant::now());
        let contested = board("ours", Some("theirs"));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            written.note(key("m"), entry("ours"), now);
            let NextWrite::At(time) = written.next(&contested, now) else {
                panic!("it was just written");
            };
            pauses.push(time - now);
            now = time;
            assert!(is_now(&written.next(&contested, now)));
        }
        assert!(pauses[0] <= AGAIN.0, "{pauses:?}");
        assert!(pauses[11] >= AGAIN.1 / 2, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= AGAIN.1), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn another_condition_is_written_at_once_and_one_of_a_deleted_object_is_forgotten() {
        let (mut written, now) = (WrittenStatuses::default(), Instant::now());
        written.note(key("m"), entry("a"), now);
        assert!(is_now(&written.next(&board("b", Some("a")), now)));
        assert!(!is_now(&written.next(&board("a", None), now)));
        assert_eq!(written.next(&StatusBoard::new(), now), NextWrite::Never);
        assert!(
            is_now(&written.next(&board("a", None), now)),
            "created again"
        );
    }
}
