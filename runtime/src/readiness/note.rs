//! What an operator should know although traffic may come.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

/// Notes by name; those that say nothing are not there.
pub(super) type Notes = Arc<Mutex<BTreeMap<Arc<str>, Arc<str>>>>;

/// The writer's side of one note. It says nothing at first, and again when it is dropped.
#[derive(Debug)]
pub struct Note {
    name: Arc<str>,
    notes: Notes,
}

// === Note ===

impl Note {
    pub(super) fn new(name: Arc<str>, notes: Notes) -> Self {
        Self { name, notes }
    }

    /// Says this on `/readyz`, so it must not hold a secret.
    pub fn say(&self, text: impl Into<Arc<str>>) {
        self.notes
            .lock()
            .insert(Arc::clone(&self.name), text.into());
    }

    /// Says nothing any more.
    pub fn clear(&self) {
        self.notes.lock().remove(&self.name);
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.clear();
    }
}
