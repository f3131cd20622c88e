//! What is known of each object: the last version of it that can be used, and what is wrong with
//! the newest one. Pure and synchronous.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use kube::core::{DynamicObject, ObjectMeta};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    condition::ObservedCondition,
    kind::ObjectKind,
    model::{self, InferenceModel},
    objective::{self, InferenceObjective},
    pool::{self, InferencePool},
    rewrite::{self, InferenceModelRewrite},
};
use crate::{
    config::{ConfigErrors, Diagnostics, Node, ObjectReference},
    gateway_api::{
        BackendService, GatewayClassSpec, GatewaySpec, HttpRouteSpec, LabelMap, ReferenceGrantSpec,
    },
};

/// Most objects of a kind that are kept; others are as if they were not there. An API server with
/// more is not one that a person looks after.
const MAX_OBJECTS: usize = 10_000;

/// An object's kind, namespace and name.
pub(crate) type ObjectKey = (ObjectKind, Arc<str>, Arc<str>);

/// Every object that was listed or watched.
#[derive(Debug, Default)]
pub(crate) struct ObjectCatalog {
    objects: BTreeMap<ObjectKey, CatalogEntry>,
    /// How many there are of each kind.
    counts: BTreeMap<ObjectKind, usize>,
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
    /// What its condition `Accepted` says.
    pub(crate) observed: Option<ObservedCondition>,
    /// Its whole status, of kinds that have parts of Gateways in it.
    pub(crate) status: Option<Arc<ObservedStatus>>,
}

/// The status of a version of an object.
#[derive(Clone, Debug, Default)]
pub(crate) struct ObservedStatus {
    pub(crate) status: Value,
    /// The version of the object, which is no news by itself.
    pub(crate) version: Option<String>,
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
    /// A class of Gateways.
    GatewayClass(GatewayClassSpec),
    /// A Gateway.
    Gateway(GatewaySpec),
    /// A route.
    Route(HttpRouteSpec),
    /// A permission to refer.
    Grant(ReferenceGrantSpec),
    /// A namespace: its labels.
    Namespace(LabelMap),
    /// A Service.
    Service(BackendService),
}

// === ObjectCatalog ===

impl ObjectCatalog {
    /// Takes in the newest version of an object; one that is being deleted is gone. Returns whether
    /// that is news.
    pub(crate) fn apply(&mut self, kind: ObjectKind, object: &DynamicObject) -> bool {
        let key = key(kind, &object.metadata);
        if object.metadata.deletion_timestamp.is_some() {
            return self.remove(&key);
        }
        let before = self.objects.get(&key);
        let count = self.counts.entry(kind).or_default();
        if before.is_none() && *count >= MAX_OBJECTS {
            tracing::warn!(
                object = %reference(&key),
                "object is ignored: there are {MAX_OBJECTS} others"
            );
            return false;
        }
        *count += usize::from(before.is_none());
        let entry = CatalogEntry::read(kind, object, before);
        if before == Some(&entry) {
            self.objects.insert(key, entry);
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
        self.remove(&(kind, namespace.into(), name.into()))
    }

    fn remove(&mut self, key: &ObjectKey) -> bool {
        let was_there = self.objects.remove(key).is_some();
        if let Some(count) = self.counts.get_mut(&key.0).filter(|_| was_there) {
            *count -= 1;
        }
        was_there
    }

    /// Forgets every object of a kind in a namespace, or in all.
    pub(crate) fn clear(&mut self, kind: ObjectKind, namespace: Option<&str>) -> bool {
        let before = self.objects.len();
        self.objects.retain(|(of, within, _), _| {
            *of != kind || namespace.is_some_and(|namespace| namespace != &**within)
        });
        if let Some(count) = self.counts.get_mut(&kind) {
            *count -= before - self.objects.len();
        }
        self.objects.len() != before
    }

    /// The objects of a kind, by namespace and name.
    pub(crate) fn of_kind(
        &self,
        kind: ObjectKind,
    ) -> impl Iterator<Item = (&ObjectKey, &CatalogEntry)> {
        let first = (kind, Arc::from(""), Arc::from(""));
        let objects = self.objects.range(first..);
        objects.take_while(move |((of, ..), _)| *of == kind)
    }

    /// The object of this kind and name.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&CatalogEntry> {
        self.objects.get(key)
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
            status: (kind.has_gateway_status()).then(|| Arc::new(ObservedStatus::read(object))),
        }
    }

    /// What it says, by its last specification that can be used.
    pub(crate) fn spec(&self) -> Option<&ObjectSpec> {
        self.usable.as_ref().map(|(_, spec)| spec)
    }
}

// === ObservedStatus ===

impl ObservedStatus {
    /// Lists without entries are as absent ones.
    fn read(object: &DynamicObject) -> Self {
        let fields = object.data.get("status").and_then(Value::as_object);
        let fields = fields.into_iter().flatten();
        let is_empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        let given = fields.filter(|(_, value)| !is_empty(value));
        Self {
            status: Value::Object(
                given
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect(),
            ),
            version: object.metadata.resource_version.clone(),
        }
    }
}

impl PartialEq for ObservedStatus {
    fn eq(&self, other: &Self) -> bool {
        self.status == other.status
    }
}

impl Eq for ObservedStatus {}

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
            ObjectKind::GatewayClass => typed(&root).map(Self::GatewayClass),
            ObjectKind::Gateway => typed(&root).map(Self::Gateway),
            ObjectKind::Route => typed(&root).map(Self::Route),
            ObjectKind::Grant | ObjectKind::EarlierGrant => typed(&root).map(Self::Grant),
            ObjectKind::Service => {
                typed(&root).map(|spec| Self::Service(BackendService::new(&spec)))
            }
            ObjectKind::Namespace => {
                Some(Self::Namespace(metadata.labels.clone().unwrap_or_default()))
            }
        };
        (spec, diagnostics.into_errors())
    }

    /// The pool that it refers to, if it is about one.
    pub(crate) fn pool(&self) -> Option<&Arc<str>> {
        match self {
            Self::Pool(_)
            | Self::GatewayClass(_)
            | Self::Gateway(_)
            | Self::Route(_)
            | Self::Grant(_)
            | Self::Namespace(_)
            | Self::Service(_) => None,
            Self::Model(InferenceModel { pool, .. })
            | Self::Objective(InferenceObjective { pool, .. })
            | Self::Rewrite(InferenceModelRewrite { pool, .. }) => Some(pool),
        }
    }
}

/// The specification of the object `root`.
fn typed<T: DeserializeOwned>(root: &Node<'_>) -> Option<T> {
    let Some(spec) = root.field("spec") else {
        return root.lacks("spec", "every object of this kind has one");
    };
    match T::deserialize(spec.value()) {
        Ok(spec) => Some(spec),
        Err(error) => spec.wrong(error.to_string()),
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
