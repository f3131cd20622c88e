//! Turns the events of a kube watcher into the three calls of an [`ObjectIndex`]: apply, delete,
//! reset.
//!
//! The subtle part of every watcher is what vanished between two lists. It is computed here, once,
//! for all kinds: the names that were known are kept, a list crosses off what it holds, and what is
//! left over is gone.

use std::{any::type_name, collections::BTreeSet};

use kube::{Resource, ResourceExt, core::DeserializeGuard, runtime::watcher::Event};

use super::index::ObjectIndex;

/// What is known of one kind, and the list that is under way.
#[derive(Debug)]
pub(crate) struct RelistDiff<K> {
    known: BTreeSet<String>,
    /// Known names that the list under way has not mentioned yet.
    unseen: BTreeSet<String>,
    listed: Vec<K>,
}

/// What an event did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelistOutcome {
    /// A list is under way; the index will see it as a whole.
    Listing,
    /// The list is complete and in the index.
    Listed {
        /// Whether it changed anything that bears on endpoints.
        changed: bool,
    },
    /// One object was taken in.
    Updated {
        /// Whether it changed anything that bears on endpoints.
        changed: bool,
    },
}

// === RelistDiff ===

impl<K> Default for RelistDiff<K> {
    fn default() -> Self {
        Self {
            known: BTreeSet::new(),
            unseen: BTreeSet::new(),
            listed: Vec::new(),
        }
    }
}

impl<K: Resource> RelistDiff<K> {
    /// Applies one event. `index` is only called when an object changed.
    pub(crate) fn fold(
        &mut self,
        event: Event<DeserializeGuard<K>>,
        index: &mut impl ObjectIndex<K>,
    ) -> RelistOutcome {
        match event {
            Event::Init => {
                // A list that broke off is forgotten as if it had never begun.
                self.unseen.clone_from(&self.known);
                self.listed.clear();
                RelistOutcome::Listing
            }
            Event::InitApply(object) => {
                let name = index.key(object.meta());
                self.unseen.remove(&name);
                self.known.insert(name);
                self.listed.extend(parsed(object));
                RelistOutcome::Listing
            }
            Event::InitDone => {
                let gone = std::mem::take(&mut self.unseen);
                self.known.retain(|name| !gone.contains(name));
                RelistOutcome::Listed {
                    changed: index.reset(std::mem::take(&mut self.listed), &gone),
                }
            }
            Event::Apply(object) => {
                self.known.insert(index.key(object.meta()));
                RelistOutcome::Updated {
                    changed: parsed(object).is_some_and(|object| index.apply(object)),
                }
            }
            Event::Delete(object) => {
                let name = index.key(object.meta());
                self.known.remove(&name);
                RelistOutcome::Updated {
                    changed: index.delete(&name),
                }
            }
        }
    }
}

/// The object, or nothing but a warning: its last good version then stays until it is deleted or
/// can be read again.
fn parsed<K: Resource>(object: DeserializeGuard<K>) -> Option<K> {
    let name = object.name_any();
    let namespace = object.namespace().unwrap_or_default();
    match object.0 {
        Ok(object) => Some(object),
        Err(invalid) => {
            let kind = type_name::<K>().rsplit("::").next();
            tracing::warn!(
                kind,
                namespace,
                name,
                error = invalid.error,
                "object cannot be parsed and is skipped"
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::error_boundary::InvalidObject;

    use super::*;

    /// Records its calls; every one is a change.
    #[derive(Default)]
    struct Recorder(Vec<String>);

    impl ObjectIndex<ConfigMap> for Recorder {
        fn apply(&mut self, object: ConfigMap) -> bool {
            self.0.push(format!("+{}", object.name_any()));
            true
        }

        fn delete(&mut self, name: &str) -> bool {
            self.0.push(format!("-{name}"));
            true
        }
    }

    fn good(name: &str) -> DeserializeGuard<ConfigMap> {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        DeserializeGuard(Ok(object))
    }

    fn bad(name: &str) -> DeserializeGuard<ConfigMap> {
        let metadata = good(name).0.unwrap().metadata;
        DeserializeGuard(Err(InvalidObject {
            error: "no".to_owned(),
            metadata,
        }))
    }

    fn calls(
        relist: &mut RelistDiff<ConfigMap>,
        events: Vec<Event<DeserializeGuard<ConfigMap>>>,
    ) -> Vec<String> {
        let mut recorder = Recorder::default();
        for event in events {
            relist.fold(event, &mut recorder);
        }
        recorder.0
    }

    fn list(names: &[&str]) -> Vec<Event<DeserializeGuard<ConfigMap>>> {
        let objects = names.iter().map(|name| Event::InitApply(good(name)));
        [Event::Init]
            .into_iter()
            .chain(objects)
            .chain([Event::InitDone])
            .collect()
    }

    #[test]
    fn a_list_reaches_the_index_only_as_a_whole() {
        let mut relist = RelistDiff::default();
        assert!(calls(&mut relist, vec![Event::Init, Event::InitApply(good("a"))]).is_empty());
        assert_eq!(calls(&mut relist, vec![Event::InitDone]), ["+a"]);
    }

    #[test]
    fn what_a_later_list_does_not_mention_is_gone() {
        let mut relist = RelistDiff::default();
        calls(&mut relist, list(&["a", "b"]));
        calls(&mut relist, vec![Event::Apply(good("c"))]);
        assert_eq!(
            calls(&mut relist, list(&["b", "d"])),
            ["-a", "-c", "+b", "+d"]
        );
        assert_eq!(
            calls(&mut relist, list(&["b", "d"])),
            ["+b", "+d"],
            "a removal is reported once"
        );
    }

    #[test]
    fn what_was_deleted_is_not_missed_by_the_next_list() {
        let mut relist = RelistDiff::default();
        calls(&mut relist, list(&["a", "b"]));
        assert_eq!(calls(&mut relist, vec![Event::Delete(good("a"))]), ["-a"]);
        assert_eq!(calls(&mut relist, list(&["b"])), ["+b"]);
    }

    #[test]
    fn a_list_that_breaks_off_takes_nothing_away() {
        let mut relist = RelistDiff::default();
        calls(&mut relist, list(&["a", "b"]));
        assert!(calls(&mut relist, vec![Event::Init, Event::InitApply(good("x"))]).is_empty());
        let whole = calls(&mut relist, list(&["b"]));
        assert_eq!(
            whole,
            ["-a", "-x", "+b"],
            "x was never applied, and forgetting it is harmless"
        );
    }

    #[test]
    fn an_object_that_cannot_be_parsed_keeps_its_last_good_version() {
        let mut relist = RelistDiff::default();
        calls(&mut relist, list(&["a"]));
        assert!(calls(&mut relist, vec![Event::Apply(bad("a"))]).is_empty());
        let relisted = vec![Event::Init, Event::InitApply(bad("a")), Event::InitDone];
        assert!(calls(&mut relist, relisted).is_empty());
        assert_eq!(
            calls(&mut relist, vec![Event::Delete(bad("a"))]),
            ["-a"],
            "and leaves when it is deleted"
        );
    }
}
