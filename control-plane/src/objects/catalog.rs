//! What is known of each object: the last version of it that can be used, and what is wrong with
//! the newest one. Pure and synchronous.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use kube::core::{DynamicObject, ObjectMeta};

use super::{
    condition::ObservedCondition,
    kind::ObjectKind,
    model::{self, InferenceModel},
    objective::{self, InferenceObjective},
    pool::{self, InferencePool},
    rewrite::{self, InferenceModelRewrite},
};
use crate::config::{ConfigErrors, Diagnostics, Node, ObjectReference};

/// Most objects that are kept; others are as if they were not there. An API server with more is not
/// one that a person looks after.
const MAX_OBJECTS: usize = 10_000;

/// An object's kind, namespace and name.
pub(crate) type ObjectKey = (ObjectKind, Arc<str>, Arc<str>);

/// Every object that was listed or watched.
#[derive(Debug, Default)]
pub(crate) struct ObjectCatalog {
    objects: BTreeMap<ObjectKey, CatalogEntry>,
}

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CatalogEntry {
    /// Since when it exists: of two that conflict, the older one counts.
    pub(crate) created: Option<Timestamp>,
    /// The newest version of its specification.
    pub(crate) generation: i64,
    /// The last specification that can be used, and its generation.
    pub(crate) usable: Option<(i64, ObjectSpec)>,
    /// Whether that is the newest one.
    pub(crate) is_newest_usable: bool,
    /// What is wrong with the newest specification.
    pub(crate) faults: ConfigErrors,
    /// What its status says.
    pub(crate) observed: Option<ObservedCondition>,
}

/// What an object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ObjectSpec {
    /// A pool.
    Pool(InferencePool),
    /// A model.
    Model(InferenceModel),
    /// An objective.
    Objective(InferenceObjective),
    /// A rewrite.
    Rewrite(InferenceModelRewrite),
}

// === ObjectCatalog ===

impl ObjectCatalog {
    /// Takes in the newest version of an object; one that is being deleted is gone. Returns whether
    /// that is news.
    pub(crate) fn apply(&mut self, kind: ObjectKind, object: &DynamicObject) -> bool {
        let key = key(kind, &object.metadata);
        if object.metadata.deletion_timestamp.is_some() {
            return self.objects.remove(&key).is_some();
        }
        let before = self.objects.get(&key);
        if before.is_none() && self.objects.len() >= MAX_OBJECTS {
            tracing::warn!(
                object = %reference(&key),
                "object is ignored: there are {MAX_OBJECTS} others"
            );
            return false;
        }
        let entry = CatalogEntry::read(kind, object, before);
        if before == Some(&entry) {
            return false;
        }
        if !entry.faults.is_empty() && before.is_none_or(|before| before.faults != entry.faults) {
            let (object, in_use) = (reference(&key), entry.usable.is_some());
            tracing::warn!(%object, in_use, faults = %entry.faults, "object has faults");
        }
        self.objects.insert(key, entry);
        true
    }

    /// Forgets an object. Returns whether that is news.
    pub(crate) fn delete(&mut self, kind: ObjectKind, namespace: &str, name: &str) -> bool {
        let key = (kind, namespace.into(), name.into());
        self.objects.remove(&key).is_some()
    }

    /// Forgets every object of a kind in a namespace, or in all.
    pub(crate) fn clear(&mut self, kind: ObjectKind, namespace: Option<&str>) -> bool {
        let before = self.objects.len();
        self.objects.retain(|(of, within, _), _| {
            *of != kind || namespace.is_some_and(|namespace| namespace != &**within)
        });
        self.objects.len() != before
    }

    /// Every object, by kind, namespace and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ObjectKey, &CatalogEntry)> {
        self.objects.iter()
    }
}

// === CatalogEntry ===

impl CatalogEntry {
    /// A new version of an object of which `before` is known.
    fn read(kind: ObjectKind, object: &DynamicObject, before: Option<&Self>) -> Self {
        let ObjectMeta {
            creation_timestamp,
            generation,
            ..
        } = &object.metadata;
        let generation = generation.unwrap_or_default();
        let created = creation_timestamp.as_ref().map(|time| time.0);
        let (spec, faults) = ObjectSpec::read(kind, object);
        // An object that was created again is another one.
        let known = before.filter(|before| before.created == created);
        let is_newest_usable = spec.is_some();
        let usable = match spec {
            Some(spec) => Some((generation, spec)),
            None => known.and_then(|before| before.usable.clone()),
        };
        Self {
            created,
            generation,
            usable,
            is_newest_usable,
            faults,
            observed: ObservedCondition::read(&object.data),
        }
    }

    /// What it says, by its last specification that can be used.
    pub(crate) fn spec(&self) -> Option<&ObjectSpec> {
        self.usable.as_ref().map(|(_, spec)| spec)
    }
}

// === ObjectSpec ===

impl ObjectSpec {
    /// What an object says, and what is wrong with it.
    pub(crate) fn read(kind: ObjectKind, object: &DynamicObject) -> (Option<Self>, ConfigErrors) {
        let diagnostics = Diagnostics::default();
        let root = Node::new(&object.data, "", &diagnostics);
        let metadata = &object.metadata;
        let spec = match kind {
            ObjectKind::Pool | ObjectKind::EarlierPool => {
                let namespace = metadata.namespace.as_deref().unwrap_or_default();
                pool::read(&root, namespace, metadata.annotations.as_ref()).map(Self::Pool)
            }
            ObjectKind::Model => model::read(&root).map(Self::Model),
            ObjectKind::Objective | ObjectKind::EarlierObjective => {
                objective::read(&root).map(Self::Objective)
            }
            ObjectKind::Rewrite | ObjectKind::EarlierRewrite => {
                rewrite::read(&root).map(Self::Rewrite)
            }
        };
        (spec, diagnostics.into_errors())
    }

    /// The pool that it refers to; a pool refers to none.
    pub(crate) fn pool(&self) -> Option<&Arc<str>> {
        match self {
            Self::Pool(_) => None,
            Self::Model(InferenceModel { pool, .. })
            | Self::Objective(InferenceObjective { pool, .. })
            | Self::Rewrite(InferenceModelRewrite { pool, .. }) => Some(pool),
        }
    }
}

fn key(kind: ObjectKind, metadata: &ObjectMeta) -> ObjectKey {
    let text = |text: &Option<String>| Arc::from(text.as_deref().unwrap_or_default());
    (kind, text(&metadata.namespace), text(&metadata.name))
}

/// An object, for people.
pub(crate) fn reference((kind, namespace, name): &ObjectKey) -> ObjectReference {
    ObjectReference {
        kind: kind.name(),
        group: kind.group(),
        namespace: Arc::clone(namespace),
        name: Arc::clone(name),
    }
}

#[cfg(test)]
pub(super) mod tests;
