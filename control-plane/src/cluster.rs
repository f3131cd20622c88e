//! The mutable state behind every snapshot: configuration, discovered endpoints, and the models
//! that engines serve.
//!
//! ```text
//!   Update ──fold──▶ Cluster { pools: { config, sources: [found], members } } ──publish──▶ Arc<Snapshot>
//!                       │
//!                       ├─ targets(): which endpoints are probed
//!                       ├─ publishers(): which KV events are followed
//!                       └─ sources(): what discovery watches
//! ```
//!
//! Invariants:
//! * synchronous and without I/O: it has one owner, [`crate::pipeline`], and never waits;
//! * when a pool's sources change, its endpoints are kept until the new sources have listed;
//! * an endpoint that two sources found is one endpoint; the source that stands first in the
//!   configuration names it;
//! * [`Cluster::publish`] returns nothing when nothing that is visible to a proxy has changed, and
//!   shares every pool that did not change with the previous snapshot.
//!
//! Load and health of endpoints are in [`crate::pools`]: they change many times a second.

mod members;
mod models;
mod pool_state;
mod shared_models;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use hermes_core::{
    collection::Collection,
    listener::Listener,
    policy::ProxySettings,
    route::Route,
    snapshot::{EndpointId, Epoch, Pool, Snapshot, Version},
};

use self::{pool_state::PoolState, shared_models::SharedModels};
use crate::{
    cache_sources::kv_events::Publisher,
    config::{Config, EndpointSource, PoolConfig},
    discovery::{DiscoveredEndpoint, DiscoveredSet},
    engines::{ModelCard, PairingStatement, ProbeTarget},
};

/// What one source reports.
#[derive(Clone, Debug)]
pub(crate) enum Update {
    /// The operator's configuration, whole.
    Config(Arc<Config>),
    /// The endpoints of one source, whole.
    Discovered {
        /// The source.
        source: SourceId,
        /// All of its endpoints.
        found: DiscoveredSet,
    },
    /// The models that an endpoint serves, whole.
    Models {
        /// Which endpoint.
        endpoint: EndpointId,
        /// All models that it lists.
        models: Vec<ModelCard>,
    },
    /// What an endpoint states of its part in pairs, whole.
    Stated {
        /// Which endpoint.
        endpoint: EndpointId,
        /// All that it states.
        stated: PairingStatement,
    },
    /// An endpoint was probed and reported no models.
    Probed {
        /// Which endpoint.
        endpoint: EndpointId,
    },
}

/// What a fold may have changed. It may overestimate: [`Cluster::publish`] compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ChangeSet {
    /// Something that is visible to proxies.
    pub(crate) visible: bool,
    /// Which endpoints are probed, or how.
    pub(crate) targets: bool,
    /// The configuration: sources of discovery, cache sources.
    pub(crate) configuration: bool,
}

/// Identifies one source of one pool while its configuration stays the same. Never used twice, so
/// that a late update of a removed source is not taken for its successor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SourceId(u64);

/// A source of one pool that discovery watches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchedSource {
    /// Its name.
    pub(crate) source: SourceId,
    /// The pool that it feeds.
    pub(crate) pool: Arc<str>,
    /// What to watch; never static.
    pub(crate) watched: EndpointSource,
    /// What it has found, or until it has listed: what the sources had found that it replaces.
    pub(crate) in_use: Vec<DiscoveredEndpoint>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// `None` until the first configuration.
    settings: Option<Arc<ProxySettings>>,
    pools: BTreeMap<Arc<str>, PoolState>,
    routes: Collection<Route>,
    listeners: Collection<Listener>,
    /// The pool of every endpoint.
    pool_of: HashMap<EndpointId, Arc<str>>,
    next_source: u64,
    shared_models: SharedModels,
    /// The newest snapshot that was published.
    published: Arc<Snapshot>,
}

// === ChangeSet ===

impl ChangeSet {
    const NOTHING: Self = Self {
        visible: false,
        targets: false,
        configuration: false,
    };
    const MODELS: Self = Self {
        visible: true,
        ..Self::NOTHING
    };
    const ENDPOINTS: Self = Self {
        visible: true,
        targets: true,
        configuration: false,
    };
    const EVERYTHING: Self = Self {
        visible: true,
        targets: true,
        configuration: true,
    };

    /// What either of two folds changed.
    #[must_use]
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            visible: self.visible | other.visible,
            targets: self.targets | other.targets,
            configuration: self.configuration | other.configuration,
        }
    }
}

// === Cluster ===

impl Cluster {
    /// An empty cluster whose snapshots belong to `epoch`.
    #[must_use]
    pub(crate) fn new(epoch: Epoch) -> Self {
        let published = Arc::new(Snapshot {
            epoch,
            ..Snapshot::default()
        });
        Self {
            settings: None,
            pools: BTreeMap::new(),
            routes: Collection::default(),
            listeners: Collection::default(),
            pool_of: HashMap::new(),
            next_source: 0,
            shared_models: SharedModels::default(),
            published,
        }
    }

    /// Takes in one update. `now`: the time since any fixed start.
    pub(crate) fn fold(&mut self, update: Update, now: Duration) -> ChangeSet {
        match update {
            Update::Config(config) => self.configure(&config, now),
            Update::Discovered { source, found } => self.discover(source, found, now),
            Update::Models { endpoint, models } => self.learn(endpoint, Some(models)),
            Update::Probed { endpoint } => self.learn(endpoint, None),
            Update::Stated { endpoint, stated } => {
                let state = |pool: &mut PoolState| pool.state(endpoint, stated);
                self.pool_of(endpoint).map_or(ChangeSet::NOTHING, state)
            }
        }
    }

    /// The next snapshot, or nothing when it equals the last one.
    pub(crate) fn publish(&mut self) -> Option<Arc<Snapshot>> {
        let settings = Arc::clone(self.settings.as_ref()?);
        let last = Arc::clone(&self.published);
        let pools: Collection<Pool> = self
            .pools
            .values_mut()
            .map(|pool| pool.publish(&last))
            .collect();
        let unchanged = pools.len() == last.pools.len()
            && pools
                .iter()
                .zip(&last.pools)
                .all(|(a, b)| Arc::ptr_eq(a, b));
        let (routes, listeners) = (self.routes.clone(), self.listeners.clone());
        let is_same_entry = routes == last.routes && listeners == last.listeners;
        let is_same = unchanged && is_same_entry && *settings == *last.settings;
        if is_same && last.version > Version(0) {
            return None;
        }
        let version = Version(last.version.0 + 1);
        self.published = Arc::new(Snapshot {
            epoch: last.epoch,
            version,
            pools,
            routes,
            listeners,
            settings,
        });
        self.shared_models.update(&self.published);
        Some(Arc::clone(&self.published))
    }

    /// The newest snapshot that was published.
    #[must_use]
    pub(crate) fn newest(&self) -> &Arc<Snapshot> {
        &self.published
    }

    /// The configuration of every pool.
    pub(crate) fn configs(&self) -> impl Iterator<Item = &PoolConfig> {
        self.pools.values().map(|pool| &pool.config)
    }

    /// The endpoints to probe.
    #[must_use]
    pub(crate) fn targets(&self) -> Vec<ProbeTarget> {
        self.pools.values().flat_map(PoolState::targets).collect()
    }

    /// The endpoints that may publish KV events, by pool; only pools that follow them.
    pub(crate) fn publishers(&self) -> impl Iterator<Item = (&Arc<str>, Vec<Publisher>)> {
        let following = self
            .pools
            .values()
            .filter(|pool| pool.config.kv_events.is_some());
        following.map(|pool| {
            (
                &pool.config.name,
                pool.members.publishers(&pool.config.policy.trust).collect(),
            )
        })
    }

    /// The sources that discovery watches.
    #[must_use]
    pub(crate) fn sources(&self) -> Vec<WatchedSource> {
        self.pools
            .values()
            .flat_map(PoolState::watched_sources)
            .collect()
    }

    /// Whether a configuration is there.
    #[must_use]
    pub(crate) fn is_configured(&self) -> bool {
        self.settings.is_some()
    }

    /// Pools with a source that has not listed yet.
    pub(crate) fn unlisted(&self) -> impl Iterator<Item = &Arc<str>> {
        self.pools
            .values()
            .filter(|pool| !pool.has_listed())
            .map(|pool| &pool.config.name)
    }

    fn configure(&mut self, config: &Config, now: Duration) -> ChangeSet {
        let mut before = std::mem::take(&mut self.pools);
        for pool in &config.pools {
            let old = before.remove(&pool.name);
            let state = PoolState::configured(pool, old, &mut self.next_source, now);
            self.pools.insert(Arc::clone(&pool.name), state);
        }
        (self.routes, self.listeners) = (config.routes.clone(), config.listeners.clone());
        if self.settings.as_deref() != Some(&config.settings) {
            self.settings = Some(Arc::new(config.settings.clone()));
        }
        self.index_endpoints();
        ChangeSet::EVERYTHING
    }

    fn discover(&mut self, source: SourceId, found: DiscoveredSet, now: Duration) -> ChangeSet {
        let Some(pool) = self.pools.values_mut().find(|pool| pool.has(source)) else {
            // A late update of a source that was removed from the configuration.
            return ChangeSet::NOTHING;
        };
        let change = pool.discover(source, found, now);
        if change == ChangeSet::ENDPOINTS {
            self.index_endpoints();
        }
        change
    }

    fn learn(&mut self, endpoint: EndpointId, models: Option<Vec<ModelCard>>) -> ChangeSet {
        let learn = |pool: &mut PoolState| pool.learn(endpoint, models);
        self.pool_of(endpoint).map_or(ChangeSet::NOTHING, learn)
    }

    fn pool_of(&mut self, endpoint: EndpointId) -> Option<&mut PoolState> {
        let name = self.pool_of.get(&endpoint)?;
        self.pools.get_mut(name)
    }

    fn index_endpoints(&mut self) {
        let residents = |pool: &PoolState| {
            let name = Arc::clone(&pool.config.name);
            pool.members
                .ids()
                .map(|id| (id, Arc::clone(&name)))
                .collect::<Vec<_>>()
        };
        self.pool_of = self.pools.values().flat_map(residents).collect();
    }
}

#[cfg(test)]
mod tests;
