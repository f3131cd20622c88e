//! Records rejected configurations as Kubernetes Events on this replica's own pod, where `kubectl
//! describe pod` shows them.
//!
//! ```text
//!   ConfigStatus ──changed──▶ rejected? Warning ConfigurationRejected, with the errors
//!                             accepted? Normal  ConfigurationAccepted
//! ```
//!
//! Invariants:
//! * nothing waits for it: it follows a watch, records the newest status, and skips those that were
//!   replaced meanwhile;
//! * an attempt has a deadline, attempts are few, and events are seconds apart;
//! * an event holds what the log holds, truncated to the limit of the API.

use std::{env, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::{
    config::watch::{ConfigStatus, LoadError},
    discovery::client::{self, ConnectError},
};

/// The reporting component of the events.
const REPORTER: &str = "hermes-control-plane";

/// Longest note that the API accepts, in bytes.
const NOTE: usize = 1_024;

/// How long one attempt may take, connecting included.
const DEADLINE: Duration = Duration::from_secs(5);

/// Waits before each attempt. The first coalesces the edits of one moment.
const ATTEMPTS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(20),
];

/// The pod that this replica runs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID: without one, `kubectl get events` shows the events and `kubectl describe pod` does
    /// not.
    pub uid: Option<String>,
}

/// Records events on one pod.
pub(crate) struct EventRecorder {
    pod: Pod,
    /// The client that was given, or found when it was needed first.
    client: Option<Client>,
}

/// The status that was recorded last, or the one at the start.
struct RecordedStatus {
    revision: u64,
    error: Option<Arc<LoadError>>,
}

/// Why an event was not recorded.
#[derive(Debug, thiserror::Error)]
enum EventError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no answer within {DEADLINE:?}")]
    Timeout,
}

// === Pod ===

impl Pod {
    /// By `POD_NAME`, `POD_NAMESPACE` and `POD_UID`, as a manifest sets them from the pod's own
    /// fields; `None` without the first two.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let read = |name| env::var(name).ok().filter(|value| !value.is_empty());
        Some(Self {
            name: read("POD_NAME")?,
            namespace: read("POD_NAMESPACE")?,
            uid: read("POD_UID"),
        })
    }

    fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            uid: self.uid.clone(),
            ..ObjectReference::default()
        }
    }
}

// === EventRecorder ===

impl EventRecorder {
    pub(crate) fn new(pod: Pod, client: Option<Client>) -> Self {
        Self { pod, client }
    }

    /// Records every change until the status has no sender, then waits to be dropped.
    pub(crate) async fn follow(mut self, mut status: watch::Receiver<ConfigStatus>) {
        let mut recorded = RecordedStatus::of(&status.borrow_and_update());
        while status.changed().await.is_ok() {
            for wait in ATTEMPTS {
                sleep(wait).await;
                // A status that was replaced meanwhile is skipped.
                let now = RecordedStatus::of(&status.borrow_and_update());
                let Some(event) = now.event_after(&recorded) else {
                    break;
                };
                if self.write(&event).await {
                    recorded = now;
                    break;
                }
            }
        }
        std::future::pending::<()>().await;
    }

    /// Records why the replica does not start, in one attempt.
    pub(crate) async fn record_rejection(mut self, error: &LoadError) {
        self.write(&rejection(error)).await;
    }

    /// Returns whether the event was recorded.
    async fn write(&mut self, event: &Event) -> bool {
        let written = timeout(DEADLINE, self.publish(event))
            .await
            .unwrap_or(Err(EventError::Timeout));
        if let Err(error) = &written {
            tracing::warn!(reason = event.reason, %error, "failed to record a Kubernetes Event");
        }
        written.is_ok()
    }

    async fn publish(&mut self, event: &Event) -> Result<(), EventError> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => self.client.insert(client::infer().await?).clone(),
        };
        let reporter = Reporter {
            controller: REPORTER.to_owned(),
            instance: Some(self.pod.name.clone()),
        };
        // A recorder that lives longer would count a second refusal on the first, and keep the
        // first one's mistakes.
        Recorder::new(client, reporter)
            .publish(event, &self.pod.reference())
            .await?;
        Ok(())
    }
}

// === RecordedStatus ===

impl RecordedStatus {
    fn of(status: &ConfigStatus) -> Self {
        Self {
            revision: status.revision,
            error: status.last_error.clone(),
        }
    }

    /// The event that this status is, if it differs from `before`.
    fn event_after(&self, before: &Self) -> Option<Event> {
        match (&self.error, &before.error) {
            (Some(error), Some(known)) if Arc::ptr_eq(error, known) => None,
            (Some(error), _) => Some(rejection(error)),
            (None, None) if self.revision == before.revision => None,
            (None, _) => Some(event(
                EventType::Normal,
                "ConfigurationAccepted",
                format!("revision {} of the configuration is in use", self.revision),
            )),
        }
    }
}

fn rejection(error: &LoadError) -> Event {
    event(
        EventType::Warning,
        "ConfigurationRejected",
        error.to_string(),
    )
}

fn event(type_: EventType, reason: &str, note: String) -> Event {
    let (reason, action) = (reason.to_owned(), "LoadConfiguration".to_owned());
    Event {
        type_,
        reason,
        note: Some(cut(note, NOTE)),
        action,
        secondary: None,
    }
}

/// At most `limit` bytes of `text`, cut between characters.
fn cut(mut text: String, limit: usize) -> String {
    const MORE: &str = "…";
    if text.len() > limit {
        let mut end = limit - MORE.len();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str(MORE);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn status(revision: u64, error: Option<&Arc<LoadError>>) -> RecordedStatus {
        RecordedStatus {
            revision,
            error: error.cloned(),
        }
    }

    fn unreadable() -> Arc<LoadError> {
        Arc::new(LoadError::Read {
            path: "config.yaml".into(),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    #[test]
    fn each_rejection_and_each_acceptance_is_one_event() {
        let (first, second) = (unreadable(), unreadable());
        let reason = |now: &RecordedStatus, before: &RecordedStatus| {
            now.event_after(before).map(|event| event.reason)
        };
        let rejected = status(1, Some(&first));
        assert_eq!(
            reason(&rejected, &status(1, None)).as_deref(),
            Some("ConfigurationRejected")
        );
        assert_eq!(reason(&rejected, &rejected), None);
        assert_eq!(
            reason(&status(1, Some(&second)), &rejected).as_deref(),
            Some("ConfigurationRejected")
        );
        assert_eq!(
            reason(&status(1, None), &rejected).as_deref(),
            Some("ConfigurationAccepted"),
            "the old one is back"
        );
        assert_eq!(
            reason(&status(2, None), &status(1, None)).as_deref(),
            Some("ConfigurationAccepted")
        );
        assert_eq!(reason(&status(2, None), &status(2, None)), None);
    }

    #[test]
    fn a_note_is_cut_between_characters() {
        let note = cut("ä".repeat(600), NOTE);
        assert!(
            note.len() <= NOTE && note.ends_with('…'),
            "{} bytes",
            note.len()
        );
        assert_eq!(cut("short".to_owned(), NOTE), "short");
    }
}
