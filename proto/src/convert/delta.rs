//! Whole snapshots, and what changed between two of them: the same content, on two bases.

use std::sync::Arc;

use hermes_core::{
    collection::{CollectionDelta, Keyed, ValueChange},
    delta::{ContentDelta, HoldersDelta, ModelDelta, PoolDelta, SnapshotDelta},
    policy::ProxySettings,
    snapshot::{EndpointId, Epoch, Model, Snapshot, Version},
};

use super::{Invalid, UNSORTED, cluster::pool_spec, each, required, sorted};
use crate::v1::{self, model_change::Change};

/// A whole snapshot as the replica named `replica` sends it.
#[must_use]
pub fn snapshot_to_wire(snapshot: &Snapshot, replica: &str) -> v1::Snapshot {
    v1::Snapshot {
        epoch: snapshot.epoch.0,
        version: snapshot.version.0,
        replica: replica.to_owned(),
        content: Some(v1::Content::from(&ContentDelta::whole(snapshot))),
    }
}

// === Snapshot ===

impl TryFrom<v1::Snapshot> for Snapshot {
    type Error = Invalid;

    fn try_from(wire: v1::Snapshot) -> Result<Self, Invalid> {
        let v1::Snapshot {
            epoch,
            version,
            replica: _,
            content,
        } = wire;
        let content = ContentDelta::try_from(required(content, "content")?)
            .map_err(|e| e.inside("content"))?;
        if content.settings.is_none() {
            return Err(Invalid::new("content.settings", "is missing"));
        }
        let nothing = Self {
            epoch: Epoch(epoch),
            version: Version(version),
            ..Self::default()
        };
        content.apply(&nothing).map_err(|_wrong_base| {
            Invalid::new(
                "content",
                "changes or removes what is not there; a whole snapshot sets everything",
            )
        })
    }
}

// === Delta ===

impl From<&SnapshotDelta> for v1::Delta {
    fn from(delta: &SnapshotDelta) -> Self {
        let SnapshotDelta {
            epoch,
            from,
            to,
            content,
        } = delta;
        Self {
            epoch: epoch.0,
            from_version: from.0,
            version: to.0,
            changes: Some(v1::Content::from(content)),
        }
    }
}

impl TryFrom<v1::Delta> for SnapshotDelta {
    type Error = Invalid;

    fn try_from(wire: v1::Delta) -> Result<Self, Invalid> {
        let v1::Delta {
            epoch,
            from_version,
            version,
            changes,
        } = wire;
        let content =
            ContentDelta::try_from(changes.unwrap_or_default()).map_err(|e| e.inside("changes"))?;
        Ok(Self {
            epoch: Epoch(epoch),
            from: Version(from_version),
            to: Version(version),
            content,
        })
    }
}

// === Content ===

impl From<&ContentDelta> for v1::Content {
    fn from(content: &ContentDelta) -> Self {
        let ContentDelta {
            settings,
            pools,
            routes,
            listeners,
        } = content;
        Self {
            settings: settings.as_deref().map(v1::Settings::from),
            pools: changed(pools, |set, gone| v1::Pools {
                set: set.iter().map(v1::Pool::from).collect(),
                gone: names(gone),
            }),
            routes: changed(routes, |set, gone| v1::Routes {
                set: set.iter().map(|set| v1::Route::from(&**set)).collect(),
                gone: names(gone),
            }),
            listeners: changed(listeners, |set, gone| v1::Listeners {
                set: set.iter().map(|set| v1::Listener::from(&**set)).collect(),
                gone: names(gone),
            }),
        }
    }
}

impl TryFrom<v1::Content> for ContentDelta {
    type Error = Invalid;

    fn try_from(wire: v1::Content) -> Result<Self, Invalid> {
        let v1::Content {
            settings,
            pools,
            routes,
            listeners,
        } = wire;
        let settings = settings
            .map(ProxySettings::try_from)
            .transpose()
            .map_err(|e| e.inside("settings"))?;
        let v1::Pools { set, gone } = pools.unwrap_or_default();
        let (routes, listeners) = (routes.unwrap_or_default(), listeners.unwrap_or_default());
        Ok(Self {
            settings: settings.map(Arc::new),
            pools: collection("pools", each(set, "pools.set")?, keys(gone))?,
            routes: collection(
                "routes",
                shared(routes.set, "routes.set")?,
                keys(routes.gone),
            )?,
            listeners: collection(
                "listeners",
                shared(listeners.set, "listeners.set")?,
                keys(listeners.gone),
            )?,
        })
    }
}

// === Pool ===

impl From<&PoolDelta> for v1::Pool {
    fn from(delta: &PoolDelta) -> Self {
        let PoolDelta {
            name,
            spec,
            models,
            endpoints,
        } = delta;
        Self {
            name: name.to_string(),
            spec: spec.as_deref().map(v1::PoolSpec::from),
            models: changed(models, |set, gone| v1::Models {
                set: set.iter().map(v1::ModelChange::from).collect(),
                gone: names(gone),
            }),
            endpoints: changed(endpoints, |set, gone| v1::Endpoints {
                set: set.iter().map(|set| v1::Endpoint::from(&**set)).collect(),
                gone: gone.iter().map(|id| id.0).collect(),
            }),
        }
    }
}

impl TryFrom<v1::Pool> for PoolDelta {
    type Error = Invalid;

    fn try_from(wire: v1::Pool) -> Result<Self, Invalid> {
        let v1::Pool {
            name,
            spec,
            models,
            endpoints,
        } = wire;
        if name.is_empty() {
            return Err(Invalid::new("name", "is empty; a pool needs a name"));
        }
        let name: Arc<str> = name.into();
        let spec = spec
            .map(|spec| pool_spec(Arc::clone(&name), spec))
            .transpose()
            .map_err(|e| e.inside("spec"))?;
        let models = models.unwrap_or_default();
        let v1::Endpoints { set, gone } = endpoints.unwrap_or_default();
        let set = shared(set, "endpoints.set")?;
        let gone = gone.into_iter().map(EndpointId).collect();
        Ok(Self {
            name,
            spec: spec.map(Arc::new),
            models: collection("models", each(models.set, "models.set")?, keys(models.gone))?,
            endpoints: collection("endpoints", set, gone)?,
        })
    }
}

// === ModelChange ===

impl From<&ModelDelta> for v1::ModelChange {
    fn from(delta: &ModelDelta) -> Self {
        let ids = |ids: &[EndpointId]| ids.iter().map(|id| id.0).collect();
        let change = match delta {
            ModelDelta::Whole(model) => Change::Whole(v1::Model::from(&**model)),
            ModelDelta::Holders(HoldersDelta {
                model,
                added,
                removed,
            }) => Change::Holders(v1::HoldersChange {
                model: model.to_string(),
                added: ids(added),
                removed: ids(removed),
            }),
        };
        Self {
            change: Some(change),
        }
    }
}

impl TryFrom<v1::ModelChange> for ModelDelta {
    type Error = Invalid;

    fn try_from(wire: v1::ModelChange) -> Result<Self, Invalid> {
        match wire.change {
            Some(Change::Whole(model)) => {
                let model = Model::try_from(model).map_err(|e| e.inside("whole"))?;
                Ok(Self::Whole(Arc::new(model)))
            }
            Some(Change::Holders(v1::HoldersChange {
                model,
                added,
                removed,
            })) => {
                sorted(&added, "holders.added", |id| *id)?;
                sorted(&removed, "holders.removed", |id| *id)?;
                Ok(Self::Holders(HoldersDelta {
                    model: model.into(),
                    added: added.into_iter().map(EndpointId).collect(),
                    removed: removed.into_iter().map(EndpointId).collect(),
                }))
            }
            None => Err(Invalid::new(
                "change",
                "is missing, or of a kind that this release does not know",
            )),
        }
    }
}

// === Collections ===

/// The message of a collection; unset when nothing changed.
fn changed<K, C, M>(
    delta: &CollectionDelta<K, C>,
    message: impl FnOnce(&[C], &[K]) -> M,
) -> Option<M> {
    (!delta.is_empty()).then(|| message(delta.set(), delta.gone()))
}

/// The delta of the collection in the field `name`.
fn collection<C: ValueChange>(
    name: &str,
    set: Vec<C>,
    gone: Vec<<C::Value as Keyed>::Key>,
) -> Result<CollectionDelta<<C::Value as Keyed>::Key, C>, Invalid> {
    CollectionDelta::new(set, gone).map_err(|out_of_order| Invalid {
        field: format!("{name}.{}[{}]", out_of_order.list, out_of_order.index),
        problem: UNSORTED,
    })
}

/// As [`each`], for values that change as a whole.
fn shared<W, C>(items: Vec<W>, list: &str) -> Result<Vec<Arc<C>>, Invalid>
where
    C: TryFrom<W, Error = Invalid>,
{
    Ok(each::<W, C>(items, list)?
        .into_iter()
        .map(Arc::new)
        .collect())
}

fn names(keys: &[Arc<str>]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

fn keys(names: Vec<String>) -> Vec<Arc<str>> {
    names.into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests;
