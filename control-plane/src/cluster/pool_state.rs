//! One pool of the cluster: its sources, its endpoints, and what is not discovered of it yet.

use std::{sync::Arc, time::Duration};

use hermes_core::{
    collection,
    delta::PoolDelta,
    snapshot::{EndpointId, PendingDiscovery, Pool, PoolSpec, Snapshot},
};

use super::{ChangeSet, SourceId, WatchedSource, members::PoolMembers, models};
use crate::{
    config::{EndpointSource, PoolConfig},
    discovery::{DiscoveredEndpoint, DiscoveredSet, static_endpoints},
    engines::{EngineKey, ModelCard, PairingQuestion, PairingStatement, ProbeTarget},
};

/// One pool.
#[derive(Debug)]
pub(super) struct PoolState {
    pub(super) config: PoolConfig,
    sources: Vec<SourceState>,
    /// What sources had found that are gone: stays until all current sources have listed.
    outgoing: Vec<DiscoveredEndpoint>,
    pub(super) members: PoolMembers,
    /// What was not discovered yet. A list that was complete once stays so: a new endpoint is a
    /// change like others.
    pending: PendingDiscovery,
    /// Whether [`Pool`] may differ from the published one.
    dirty: bool,
}

#[derive(Debug)]
struct SourceState {
    id: SourceId,
    source: EndpointSource,
    /// `None` until it has listed.
    found: Option<DiscoveredSet>,
}

// === PoolState ===

impl PoolState {
    /// The pool as `config` wants it, with what is known about sources and endpoints that stay.
    pub(super) fn configured(
        config: &PoolConfig,
        old: Option<Self>,
        next_source: &mut u64,
        now: Duration,
    ) -> Self {
        let unknown = PendingDiscovery {
            endpoints: true,
            models: true,
        };
        let (mut before, mut outgoing, members, pending) = match old {
            Some(old) => (old.sources, old.outgoing, old.members, old.pending),
            None => (Vec::new(), Vec::new(), PoolMembers::default(), unknown),
        };
        let sources = config.sources.iter().map(|source| {
            let kept = before.iter().position(|known| known.source == *source);
            kept.map_or_else(
                || SourceState::new(source, next_source),
                |position| before.swap_remove(position),
            )
        });
        let sources = sources.collect();
        outgoing.extend(
            before
                .into_iter()
                .filter_map(|removed| removed.found)
                .flat_map(|found| found.endpoints),
        );
        let mut pool = Self {
            config: config.clone(),
            sources,
            outgoing,
            members,
            pending,
            dirty: true,
        };
        pool.gather(now);
        pool.update_pending();
        pool
    }

    /// Whether this is one of its sources.
    pub(super) fn has(&self, source: SourceId) -> bool {
        self.sources.iter().any(|known| known.id == source)
    }

    /// Takes in all endpoints of a source of this pool.
    pub(super) fn discover(
        &mut self,
        source: SourceId,
        found: DiscoveredSet,
        now: Duration,
    ) -> ChangeSet {
        if let Some(known) = self.sources.iter_mut().find(|known| known.id == source) {
            known.found = Some(found);
        }
        let changed = self.gather(now);
        let pending = self.update_pending();
        if changed {
            ChangeSet::ENDPOINTS
        } else {
            pending
        }
    }

    /// Takes in what an engine states of its part in pairs.
    pub(super) fn state(&mut self, endpoint: EndpointId, stated: PairingStatement) -> ChangeSet {
        let changed = self.members.state(endpoint, stated);
        self.dirty |= changed;
        let pending = self.update_pending();
        if changed { ChangeSet::MODELS } else { pending }
    }

    /// Takes in a probe of an endpoint: its models, or that it reported none.
    pub(super) fn learn(
        &mut self,
        endpoint: EndpointId,
        models: Option<Vec<ModelCard>>,
    ) -> ChangeSet {
        let changed = match models {
            Some(models) => self.members.set_models(endpoint, models),
            None => self.members.count_silent_probe(endpoint) && self.asks_for_roles(),
        };
        self.dirty |= changed;
        let pending = self.update_pending();
        if changed { ChangeSet::MODELS } else { pending }
    }

    /// Ends what is pending as soon as every source has listed, and every endpoint was asked for
    /// its models.
    fn update_pending(&mut self) -> ChangeSet {
        let before = self.pending;
        self.pending.endpoints &= !self.is_discovered();
        let unknown = self.config.models.is_empty() && !self.members.are_models_known();
        self.pending.models &= self.pending.endpoints || unknown;
        if self.pending == before {
            return ChangeSet::NOTHING;
        }
        self.dirty = true;
        ChangeSet::MODELS
    }

    /// Joins what the sources found. Returns whether the endpoints changed.
    fn gather(&mut self, now: Duration) -> bool {
        if self.has_listed() {
            self.outgoing.clear();
        }
        let found = self
            .sources
            .iter()
            .filter_map(|source| source.found.as_ref())
            .flat_map(|found| &found.endpoints);
        let changed = self.members.replace(
            &self.config.name,
            self.config.tls.server_name.as_ref(),
            found.chain(&self.outgoing),
            now,
        );
        self.dirty |= changed;
        changed
    }

    /// Whether every source has listed, what it found is not in doubt, and no endpoint is left out
    /// because its engine was not asked for its role.
    fn is_discovered(&self) -> bool {
        let mut found = self.sources.iter().map(|source| source.found.as_ref());
        let are_known = !self.asks_for_roles() || !self.members.await_roles();
        are_known && found.all(|found| found.is_some_and(|found| !found.is_doubtful))
    }

    /// Whether engines state their roles, where nothing else names them.
    fn asks_for_roles(&self) -> bool {
        let rules = self.config.policy.disaggregation.as_ref();
        rules.is_some_and(|rules| PairingQuestion::of(rules, None, None).is_some())
    }

    /// Whether every source has listed.
    pub(super) fn has_listed(&self) -> bool {
        self.sources.iter().all(|source| source.found.is_some())
    }

    /// The pool as proxies see it: the one of `last`, shared, when nothing changed.
    pub(super) fn publish(&mut self, last: &Snapshot) -> Arc<Pool> {
        let before = last.pool(&self.config.name);
        if let Some(before) = before.filter(|_| !self.dirty) {
            return Arc::clone(before);
        }
        self.dirty = false;
        let asks = self.asks_for_roles();
        let Self {
            config:
                PoolConfig {
                    name,
                    models,
                    policy,
                    pickers,
                    rewrites,
                    priorities,
                    objectives,
                    asked_picker,
                    http2,
                    ..
                },
            members,
            pending,
            ..
        } = self;
        let spec = PoolSpec {
            name: Arc::clone(name),
            policy: policy.clone(),
            pending: *pending,
            pickers: Arc::clone(pickers),
            rewrites: Arc::clone(rewrites),
            priorities: Arc::clone(priorities),
            objectives: Arc::clone(objectives),
            asked_picker: asked_picker.clone(),
            http2: *http2,
        };
        let pool = Pool {
            spec: Arc::new(spec),
            models: models::of(name, models, members),
            endpoints: members.endpoints(asks),
        };
        collection::shared::<PoolDelta>(before, Arc::new(pool))
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = ProbeTarget> {
        let collector = &self.config.collector;
        let trust = &self.config.policy.trust;
        let rules = self.config.policy.disaggregation.as_ref();
        let metrics_path = collector.enabled.then(|| Arc::clone(&collector.path));
        let key = collector.key_file.clone().map(EngineKey::new);
        self.members.iter().map(move |member| ProbeTarget {
            id: member.endpoint.id,
            pool: Arc::clone(&self.config.name),
            address: member.endpoint.address.clone(),
            trust: member.trust(trust),
            http2: self.config.http2,
            metrics_path: metrics_path.clone(),
            key: key.clone(),
            pairing: rules.and_then(|rules| member.question(rules)),
            interval: collector.interval,
            timeout: collector.timeout,
        })
    }

    pub(super) fn watched_sources(&self) -> impl Iterator<Item = WatchedSource> {
        let watched = self
            .sources
            .iter()
            .filter(|state| known_at_once(&state.source).is_none());
        watched.map(|SourceState { id, source, found }| WatchedSource {
            source: *id,
            pool: Arc::clone(&self.config.name),
            watched: source.clone(),
            in_use: (found
                .as_ref()
                .map_or(&self.outgoing, |found| &found.endpoints))
            .clone(),
        })
    }
}

// === SourceState ===

impl SourceState {
    /// A static source has listed from the start.
    fn new(source: &EndpointSource, next: &mut u64) -> Self {
        let id = SourceId(*next);
        *next += 1;
        Self {
            id,
            source: source.clone(),
            found: known_at_once(source),
        }
    }
}

/// The endpoints of a static source; nothing when it has to be watched.
fn known_at_once(source: &EndpointSource) -> Option<DiscoveredSet> {
    match source {
        EndpointSource::Static(addresses) => Some(static_endpoints(None, addresses).into()),
        EndpointSource::StaticRole(role, addresses) => {
            Some(static_endpoints(Some(*role), addresses).into())
        }
        EndpointSource::Services(_) | EndpointSource::Service(..) | EndpointSource::Pods(_) => None,
    }
}
