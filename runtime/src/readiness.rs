//! Whether the process may get traffic, and whether it works at all: two different questions.
//!
//! [`Readiness`] is a set of named gates. The process is ready when every gate is open; `/readyz`
//! names the others. A gate belongs to the holder of its [`Gate`], and a gate whose holder is gone
//! is shut: a task that panicked cannot leave its part of the process looking ready. [`Liveness`]
//! only ever goes from healthy to unhealthy, and asks for a restart; a condition that ends by
//! itself does not belong there. A [`Note`] is neither: it is shown on `/readyz` of a process that
//! is ready, such as a configuration that was refused while the last good one serves.

mod note;

pub use self::note::Note;
use self::note::Notes;

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The gates of a process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    gates: Arc<watch::Sender<Gates>>,
    notes: Notes,
}

/// The holder's side of one gate. Shut at first, and again when it is dropped.
#[derive(Debug)]
pub struct Gate {
    id: u64,
    gates: Arc<watch::Sender<Gates>>,
}

/// A gate that is shut, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The gate's name, such as `snapshot`.
    pub gate: Arc<str>,
    /// What it waits for, or why it was shut.
    pub reason: Arc<str>,
}

/// Whether the process can go on. Clones share the answer.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    failure: Arc<Mutex<Option<Arc<str>>>>,
}

#[derive(Debug, Default)]
struct Gates {
    next_id: u64,
    by_id: BTreeMap<u64, GateState>,
}

#[derive(Debug)]
struct GateState {
    name: Arc<str>,
    /// `None` when the gate is open.
    shut: Option<Arc<str>>,
}

// === Readiness ===

impl Readiness {
    /// Adds a gate, shut until its holder opens it. Two gates may share a name.
    #[must_use = "a dropped gate stays shut"]
    pub fn gate(&self, name: impl Into<Arc<str>>) -> Gate {
        let mut id = 0;
        self.gates.send_modify(|gates| {
            id = gates.next_id;
            gates.next_id += 1;
            let state = GateState {
                name: name.into(),
                shut: Some("not yet".into()),
            };
            gates.by_id.insert(id, state);
        });
        Gate {
            id,
            gates: Arc::clone(&self.gates),
        }
    }

    /// Whether every gate is open. A process without gates is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.gates.borrow().all_open()
    }

    /// The gates that are shut, in the order in which they were added.
    #[must_use]
    pub fn missing(&self) -> Vec<Missing> {
        let gates = self.gates.borrow();
        let shut = gates.by_id.values().filter_map(|state| {
            let reason = Arc::clone(state.shut.as_ref()?);
            Some(Missing {
                gate: Arc::clone(&state.name),
                reason,
            })
        });
        shut.collect()
    }

    /// Adds a note, which has no say in whether the process is ready. Notes have names of their
    /// own.
    #[must_use = "a dropped note says nothing"]
    pub fn note(&self, name: impl Into<Arc<str>>) -> Note {
        Note::new(name.into(), Arc::clone(&self.notes))
    }

    /// The notes that say something, by name.
    #[must_use]
    pub fn notes(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.notes
            .lock()
            .iter()
            .map(|(name, text)| (Arc::clone(name), Arc::clone(text)))
            .collect()
    }

    /// Waits until every gate is open. The caller sets the deadline.
    pub async fn ready(&self) {
        let mut gates = self.gates.subscribe();
        // The sender lives in `self`, so the wait can only end by the condition.
        let _closed = gates.wait_for(Gates::all_open).await;
    }
}

// === Gate ===

impl Gate {
    /// Opens the gate. Opening twice changes nothing.
    pub fn open(&self) {
        self.set(None);
    }

    /// Shuts the gate. `reason` is shown on `/readyz`, so it must not hold a secret.
    pub fn close(&self, reason: impl Into<Arc<str>>) {
        self.set(Some(reason.into()));
    }

    /// Opens the gate for the rest of the process: for conditions that cannot become false again.
    pub fn open_for_good(self) {
        self.gates.send_modify(|gates| {
            gates.by_id.remove(&self.id);
        });
    }

    fn set(&self, shut: Option<Arc<str>>) {
        self.gates.send_if_modified(|gates| {
            let Some(state) = gates.by_id.get_mut(&self.id) else {
                return false;
            };
            let changed = state.shut != shut;
            if changed {
                log_transition(&state.name, shut.as_deref());
                state.shut = shut;
            }
            changed
        });
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.close("its owner is gone");
    }
}

fn log_transition(gate: &str, shut: Option<&str>) {
    match shut {
        None => tracing::info!(gate, "readiness gate opened"),
        Some(reason) => tracing::info!(gate, reason, "readiness gate shut"),
    }
}

// === Liveness ===

impl Liveness {
    /// Marks the process as broken beyond repair. The first reason stays.
    pub fn fail(&self, reason: impl Into<Arc<str>>) {
        self.failure.lock().get_or_insert(reason.into());
    }

    /// Why the process is unhealthy; `None` while it is healthy.
    #[must_use]
    pub fn failure(&self) -> Option<Arc<str>> {
        self.failure.lock().clone()
    }
}

// === Gates ===

impl Gates {
    fn all_open(&self) -> bool {
        self.by_id.values().all(|state| state.shut.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(readiness: &Readiness) -> Vec<String> {
        readiness
            .missing()
            .iter()
            .map(|missing| format!("{}: {}", missing.gate, missing.reason))
            .collect()
    }

    #[test]
    fn ready_means_that_every_gate_is_open() {
        let readiness = Readiness::default();
        let snapshot = readiness.gate("snapshot");
        let listener = readiness.gate("listener");
        assert_eq!(
            names(&readiness),
            ["snapshot: not yet", "listener: not yet"]
        );

        snapshot.open();
        assert_eq!(names(&readiness), ["listener: not yet"]);
        listener.open();
        assert!(readiness.is_ready());

        snapshot.close("older than 60 s");
        assert!(!readiness.is_ready());
        assert_eq!(names(&readiness), ["snapshot: older than 60 s"]);
    }

    #[test]
    fn a_gate_whose_owner_is_gone_is_shut() {
        let readiness = Readiness::default();
        let gate = readiness.gate("sync");
        gate.open();
        drop(gate);
        assert_eq!(names(&readiness), ["sync: its owner is gone"]);
    }

    #[test]
    fn a_gate_opened_for_good_needs_no_owner() {
        let readiness = Readiness::default();
        readiness.gate("configuration").open_for_good();
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_note_is_shown_and_has_no_say() {
        let readiness = Readiness::default();
        let note = readiness.note("configuration");
        assert!(readiness.notes().is_empty());
        note.say("refused");
        assert_eq!(
            readiness.notes(),
            [("configuration".into(), "refused".into())]
        );
        assert!(readiness.is_ready());
        drop(note);
        assert!(readiness.notes().is_empty());
    }

    #[tokio::test]
    async fn waiters_wake_when_the_last_gate_opens() {
        let readiness = Readiness::default();
        let gate = readiness.gate("snapshot");
        let waiter = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        gate.open();
        waiter.await.expect("the waiter ends without panic");
    }

    #[test]
    fn the_first_failure_is_the_one_that_is_reported() {
        let liveness = Liveness::default();
        assert_eq!(liveness.failure(), None);
        liveness.fail("task `collector` panicked");
        liveness.fail("task `sync` ended");
        assert_eq!(
            liveness.failure().as_deref(),
            Some("task `collector` panicked")
        );
    }
}
