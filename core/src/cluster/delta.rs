//! The difference of two snapshots: what a subscriber that has the old one needs to make the new
//! one.
//!
//! A message follows what changed: one restarted pod of a thousand is one endpoint in, one endpoint
//! out. What did not change is shared with the old snapshot, not copied.
//!
//! Deltas exist inside one epoch only: another run of the control plane begins with a whole
//! snapshot.

use std::sync::Arc;

use crate::{
    policy::ProxySettings,
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
    /// The new settings, if they changed.
    pub settings: Option<Arc<ProxySettings>>,
    /// Pools that are new or changed.
    pub pools: Vec<PoolDelta>,
    /// Names of pools that are gone.
    pub gone: Vec<Arc<str>>,
}

/// What happened to one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolDelta {
    /// Which.
    pub name: Arc<str>,
    /// Its new specification; `None` if that did not change. Always there for a new pool.
    pub spec: Option<Arc<PoolSpec>>,
    /// Endpoints that are new or changed, sorted by id.
    pub set: Vec<Arc<Endpoint>>,
    /// Endpoints that are gone, sorted.
    pub gone: Vec<EndpointId>,
}

/// A delta met a snapshot that it was not made for; only a whole snapshot helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongBase {
    /// The snapshot has another version, or belongs to another epoch.
    #[error("the delta applies to version {} of epoch {:x}, not to the version {} at hand", .wanted.0, .epoch.0, .found.0)]
    Version {
        /// The delta's epoch.
        epoch: Epoch,
        /// The version it applies to.
        wanted: Version,
        /// The version it met, perhaps of another epoch.
        found: Version,
    },
    /// The delta changes a pool that the snapshot does not have.
    #[error("the delta changes the pool {0}, which is not there")]
    Pool(Arc<str>),
}

// === Delta ===

impl SnapshotDelta {
    /// What turns `old` into `new`.
    ///
    /// Between two epochs there is no such thing: the result then applies to neither, see
    /// [`Self::apply`].
    #[must_use]
    pub fn between(old: &Snapshot, new: &Snapshot) -> Self {
        let pools = new
            .pools
            .iter()
            .filter_map(|pool| PoolDelta::between(old.pool(&pool.spec.name), pool))
            .collect();
        let gone = old
            .pools
            .iter()
            .map(|pool| &pool.spec.name)
            .filter(|name| new.pool(name).is_none())
            .cloned()
            .collect();
        Self {
            epoch: new.epoch,
            from: old.version,
            to: new.version,
            settings: (!same(&old.settings, &new.settings)).then(|| Arc::clone(&new.settings)),
            pools,
            gone,
        }
    }

    /// Whether nothing but the version changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.settings.is_none() && self.pools.is_empty() && self.gone.is_empty()
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
        let changed = self
            .pools
            .iter()
            .map(|delta| delta.apply(base))
            .collect::<Result<Vec<_>, _>>()?;
        let pools = merged(
            &base.pools,
            changed,
            |pool| Arc::clone(&pool.spec.name),
            |name| self.gone.contains(name),
        );
        let settings = self.settings.as_ref().unwrap_or(&base.settings);
        Ok(Snapshot {
            epoch: self.epoch,
            version: self.to,
            pools,
            settings: Arc::clone(settings),
        })
    }
}

// === PoolDelta ===

impl PoolDelta {
    /// What turns `old`, if it was there, into `new`; `None` when they are the same.
    fn between(old: Option<&Arc<Pool>>, new: &Arc<Pool>) -> Option<Self> {
        let name = Arc::clone(&new.spec.name);
        let Some(old) = old else {
            let (spec, set) = (Some(Arc::clone(&new.spec)), new.endpoints.clone());
            return Some(Self {
                name,
                spec,
                set,
                gone: Vec::new(),
            });
        };
        if Arc::ptr_eq(old, new) {
            return None;
        }
        let spec = (!same(&old.spec, &new.spec)).then(|| Arc::clone(&new.spec));
        let known = |endpoint: &&Arc<Endpoint>| {
            old.position(endpoint.id)
                .is_some_and(|position| same(&old.endpoints[position], endpoint))
        };
        let set: Vec<_> = new
            .endpoints
            .iter()
            .filter(|endpoint| !known(endpoint))
            .cloned()
            .collect();
        let ids = old.endpoints.iter().map(|endpoint| endpoint.id);
        let gone: Vec<_> = ids.filter(|&id| new.position(id).is_none()).collect();
        let changed = spec.is_some() || !set.is_empty() || !gone.is_empty();
        changed.then_some(Self {
            name,
            spec,
            set,
            gone,
        })
    }

    fn apply(&self, base: &Snapshot) -> Result<Arc<Pool>, WrongBase> {
        let old = base.pool(&self.name);
        let Some(spec) = self.spec.as_ref().or(old.map(|pool| &pool.spec)) else {
            return Err(WrongBase::Pool(Arc::clone(&self.name)));
        };
        let mut gone = self.gone.clone();
        gone.sort_unstable();
        let endpoints = old.map_or(&[][..], |pool| &pool.endpoints);
        let is_gone = |id: &EndpointId| gone.binary_search(id).is_ok();
        let endpoints = merged(endpoints, self.set.clone(), |endpoint| endpoint.id, is_gone);
        Ok(Arc::new(Pool {
            spec: Arc::clone(spec),
            endpoints,
        }))
    }
}

/// Whether two shared values are the same, by address or else by content.
fn same<T: PartialEq>(old: &Arc<T>, new: &Arc<T>) -> bool {
    Arc::ptr_eq(old, new) || old == new
}

/// `old` without those that are gone, and with those that changed in their places: sorted, each key
/// once.
fn merged<T, K: Ord>(
    old: &[Arc<T>],
    changed: Vec<Arc<T>>,
    key: impl Fn(&T) -> K,
    gone: impl Fn(&K) -> bool,
) -> Vec<Arc<T>> {
    // The last one of a key wins: changed ones come after those they replace.
    let kept = old.iter().filter(|item| !gone(&key(item))).cloned();
    let mut all: Vec<Arc<T>> = kept.chain(changed).collect();
    all.sort_by_key(|item| key(item));
    all.dedup_by(|later, earlier| {
        let replaced = key(later) == key(earlier);
        if replaced {
            std::mem::swap(later, earlier);
        }
        replaced
    });
    all
}

#[cfg(test)]
mod tests;
