//! The difference of two snapshots: what a subscriber that has the old one needs to make the new
//! one.
//!
//! A message follows what changed: one restarted pod of a thousand is one endpoint in, one endpoint
//! out, and one id at each model whose holders are listed. What did not change is shared with the
//! old snapshot, not copied. A kind of thing that snapshots get is one more [`CollectionDelta`]
//! here.
//!
//! Deltas exist inside one epoch only: another run of the control plane begins with a whole
//! snapshot, which is the delta from [`Snapshot::default`].

mod holders;

use std::sync::Arc;

pub use self::holders::{HoldersDelta, ModelDelta};
use crate::{
    collection::{CollectionDelta, ValueChange, WrongBase},
    listener::Listener,
    policy::ProxySettings,
    route::Route,
    snapshot::{Endpoint, EndpointId, Epoch, Pool, PoolSpec, Snapshot, Version},
};

/// What happened to a snapshot between two versions.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotDelta {
    /// Of both snapshots.
    pub epoch: Epoch,
    /// The version it applies to.
    pub from: Version,
    /// The version it makes.
    pub to: Version,
    /// What changed.
    pub content: ContentDelta,
}

/// What changed of everything that a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContentDelta {
    /// The new settings, if they changed.
    pub settings: Option<Arc<ProxySettings>>,
    /// Pools.
    pub pools: CollectionDelta<Arc<str>, PoolDelta>,
    /// Routes.
    pub routes: CollectionDelta<Arc<str>, Arc<Route>>,
    /// Listeners.
    pub listeners: CollectionDelta<Arc<str>, Arc<Listener>>,
}

/// What happened to one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolDelta {
    /// Which.
    pub name: Arc<str>,
    /// Its new specification, of the same name; `None` if that did not change. Always there for a
    /// new pool.
    pub spec: Option<Arc<PoolSpec>>,
    /// Its models.
    pub models: CollectionDelta<Arc<str>, ModelDelta>,
    /// Its endpoints.
    pub endpoints: CollectionDelta<EndpointId, Arc<Endpoint>>,
}

// === SnapshotDelta ===

impl SnapshotDelta {
    /// What turns `old` into `new`.
    ///
    /// Between two epochs there is no such thing: the result then applies to neither, see
    /// [`Self::apply`].
    #[must_use]
    pub fn between(old: &Snapshot, new: &Snapshot) -> Self {
        Self {
            epoch: new.epoch,
            from: old.version,
            to: new.version,
            content: ContentDelta::between(old, new),
        }
    }

    /// Whether nothing but the version changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.content == ContentDelta::default()
    }

    /// The new snapshot; shares with `base` what did not change.
    ///
    /// # Errors
    /// When the delta was not made for `base`.
    pub fn apply(&self, base: &Snapshot) -> Result<Snapshot, WrongBase> {
        if (self.epoch, self.from) != (base.epoch, base.version) {
            return Err(WrongBase::Version {
                epoch: self.epoch,
                wanted: self.from,
                found: base.version,
            });
        }
        Ok(Snapshot {
            version: self.to,
            ..self.content.apply(base)?
        })
    }
}

// === ContentDelta ===

impl ContentDelta {
    /// What turns the content of `old` into that of `new`.
    #[must_use]
    pub fn between(old: &Snapshot, new: &Snapshot) -> Self {
        let is_same = Arc::ptr_eq(&old.settings, &new.settings) || old.settings == new.settings;
        Self {
            settings: (!is_same).then(|| Arc::clone(&new.settings)),
            pools: CollectionDelta::between(&old.pools, &new.pools),
            routes: CollectionDelta::between(&old.routes, &new.routes),
            listeners: CollectionDelta::between(&old.listeners, &new.listeners),
        }
    }

    /// All of `snapshot`: what makes it of nothing.
    #[must_use]
    pub fn whole(snapshot: &Snapshot) -> Self {
        Self {
            settings: Some(Arc::clone(&snapshot.settings)),
            ..Self::between(&Snapshot::default(), snapshot)
        }
    }

    /// `base` with the new content, under its old version.
    ///
    /// # Errors
    /// When the delta was not made for the content of `base`.
    pub fn apply(&self, base: &Snapshot) -> Result<Snapshot, WrongBase> {
        Ok(Snapshot {
            epoch: base.epoch,
            version: base.version,
            settings: Arc::clone(self.settings.as_ref().unwrap_or(&base.settings)),
            pools: self.pools.apply(&base.pools)?,
            routes: self.routes.apply(&base.routes)?,
            listeners: self.listeners.apply(&base.listeners)?,
        })
    }
}

// === PoolDelta ===

impl ValueChange for PoolDelta {
    type Value = Pool;

    fn between(old: Option<&Arc<Pool>>, new: &Arc<Pool>) -> Option<Self> {
        if old.is_some_and(|old| Arc::ptr_eq(old, new)) {
            return None;
        }
        let models = old.map(|old| old.models.clone()).unwrap_or_default();
        let endpoints = old.map(|old| old.endpoints.clone()).unwrap_or_default();
        let spec = <Arc<PoolSpec>>::clone(&new.spec);
        let delta = Self {
            name: Arc::clone(&new.spec.name),
            spec: old.is_none_or(|old| old.spec != new.spec).then_some(spec),
            models: CollectionDelta::between(&models, &new.models),
            endpoints: CollectionDelta::between(&endpoints, &new.endpoints),
        };
        let is_changed =
            delta.spec.is_some() || !delta.models.is_empty() || !delta.endpoints.is_empty();
        is_changed.then_some(delta)
    }

    fn key(&self) -> &Arc<str> {
        &self.name
    }

    fn apply(&self, base: Option<&Arc<Pool>>) -> Result<Arc<Pool>, WrongBase> {
        let spec = self.spec.as_ref().or(base.map(|base| &base.spec));
        let Some(spec) = spec else {
            return Err(WrongBase::missing::<Pool>(&self.name));
        };
        if spec.name != self.name {
            return Err(WrongBase::different::<Pool>(&self.name));
        }
        let models = base.map(|base| base.models.clone()).unwrap_or_default();
        let endpoints = base.map(|base| base.endpoints.clone()).unwrap_or_default();
        Ok(Arc::new(Pool {
            spec: Arc::clone(spec),
            models: self.models.apply(&models)?,
            endpoints: self.endpoints.apply(&endpoints)?,
        }))
    }
}

#[cfg(test)]
mod tests;
