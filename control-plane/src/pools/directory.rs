//! The schedulers of this replica, by the name of their pool and by endpoint.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use hermes_core::{
    ledger::{LegKey, ListedLeg, ProxyId, RequestKey},
    snapshot::{EndpointId, Snapshot},
    stored_responses::{ResponseKey, ResponseLocations},
};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    PoolResources,
    queue_waker::QueueWaker,
    scheduler::{EndpointLoadView, FinishReport, PoolCensus, PoolScheduler},
};
use crate::{
    cache_sources::kv_events::KvEvents, engines::ProbeResult, metrics::ControlPlaneMetrics,
};

/// Every pool's scheduler. Readers take no lock to find one.
#[derive(Debug)]
pub(crate) struct PoolDirectory {
    directory: ArcSwap<DirectoryMaps>,
    /// The clock of all schedulers counts from here.
    start: Instant,
    seed: u64,
    /// The endpoints of stored responses, as proxies reported them.
    responses: Mutex<ResponseLocations>,
    metrics: ControlPlaneMetrics,
    queue_waker: Arc<QueueWaker>,
}

/// A pool's scheduler and what it uses.
#[derive(Clone, Debug)]
pub(crate) struct PoolHandle {
    /// Chooses, books and queues.
    pub(crate) scheduler: Arc<PoolScheduler>,
    /// Cache sources and the tokenizer.
    pub(crate) resources: PoolResources,
}

#[derive(Debug, Default)]
struct DirectoryMaps {
    pools: BTreeMap<Arc<str>, PoolHandle>,
    endpoints: HashMap<EndpointId, Arc<PoolScheduler>>,
}

/// One pool's endpoints, for people.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PoolLoadView {
    pool: Arc<str>,
    bookings: usize,
    endpoints: Vec<EndpointLoadView>,
}

// === PoolDirectory ===

impl PoolDirectory {
    /// No schedulers yet. `seed` decides what is left to chance.
    #[must_use]
    pub(crate) fn new(seed: u64, metrics: ControlPlaneMetrics) -> Self {
        Self {
            directory: ArcSwap::default(),
            start: Instant::now(),
            seed,
            responses: Mutex::default(),
            metrics,
            queue_waker: Arc::default(),
        }
    }

    /// The time, as schedulers count it.
    #[must_use]
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Makes the pools those of `snapshot`. It has one caller; readers use the old directory until
    /// it returns.
    pub(crate) fn apply(&self, snapshot: &Snapshot, resources: impl Fn(&str) -> PoolResources) {
        let (before, now) = (self.directory.load_full(), self.now());
        let mut next = DirectoryMaps::default();
        for pool in &snapshot.pools {
            let name = &pool.spec.name;
            let resources = resources(name);
            let settings = resources.scheduler;
            let scheduler = match before.pools.get(name) {
                Some(handle) => {
                    handle.scheduler.apply(pool, settings, now);
                    Arc::clone(&handle.scheduler)
                }
                None => {
                    let seed = self.seed ^ xxh3_64(name.as_bytes());
                    let shared = (self.metrics.pool(name), Arc::clone(&self.queue_waker));
                    Arc::new(PoolScheduler::new(pool, settings, shared, seed))
                }
            };
            for endpoint in &pool.endpoints {
                next.endpoints.insert(endpoint.id, Arc::clone(&scheduler));
            }
            let handle = PoolHandle {
                scheduler,
                resources,
            };
            handle.update_resources();
            next.pools.insert(Arc::clone(name), handle);
        }
        let next = Arc::new(next);
        self.directory.store(Arc::clone(&next));
        for (name, handle) in &before.pools {
            if !next.pools.contains_key(name) {
                handle.scheduler.close();
            }
        }
    }

    /// The scheduler of a pool.
    #[must_use]
    pub(crate) fn pool(&self, name: &str) -> Option<PoolHandle> {
        self.directory.load().pools.get(name).cloned()
    }

    /// The scheduler of an endpoint's pool.
    #[must_use]
    pub(crate) fn of(&self, endpoint: EndpointId) -> Option<Arc<PoolScheduler>> {
        self.directory.load().endpoints.get(&endpoint).cloned()
    }

    /// An endpoint stored a response.
    pub(crate) fn remember_response(&self, response: ResponseKey, endpoint: EndpointId) {
        self.responses.lock().insert(response, endpoint);
    }

    /// The endpoint of a stored response, if a proxy reported it.
    #[must_use]
    pub(crate) fn response(&self, response: ResponseKey) -> Option<EndpointId> {
        self.responses.lock().endpoint(response)
    }

    /// The collector asked an endpoint.
    pub(crate) fn observe(&self, observation: &ProbeResult) {
        if let Some(scheduler) = self.of(observation.endpoint) {
            scheduler.observe(observation, self.now());
        }
    }

    /// Wakes the queue ticker.
    pub(super) fn queue_waker(&self) -> &QueueWaker {
        &self.queue_waker
    }

    /// Serves the queues that are due. Returns when the next one is; `None` while no request is
    /// queued.
    pub(super) fn serve_queues(&self) -> Option<Instant> {
        let now = self.now();
        let due = self
            .all()
            .filter_map(|scheduler| scheduler.serve_queue(now));
        due.min().map(|due| self.start + due)
    }

    /// Lets time pass in every pool.
    pub(crate) fn tick(&self) {
        let (directory, now) = (self.directory.load_full(), self.now());
        for handle in directory.pools.values() {
            handle.scheduler.tick(now);
            // The block size becomes known some time after an endpoint appears.
            handle.update_resources();
        }
    }

    /// A proxy does not want the answer to a request any more.
    pub(crate) fn cancel(&self, key: RequestKey) {
        let now = self.now();
        self.all()
            .for_each(|scheduler| _ = scheduler.cancel(key, now));
    }

    /// A proxy is gone for good.
    pub(crate) fn forget_proxy(&self, proxy: ProxyId) {
        let now = self.now();
        self.all()
            .for_each(|scheduler| scheduler.forget_proxy(proxy, now));
    }

    /// A proxy says what it really has open, in all pools.
    pub(crate) fn replace_proxy(&self, proxy: ProxyId, open: impl IntoIterator<Item = ListedLeg>) {
        let (directory, now) = (self.directory.load_full(), self.now());
        let mut shares: HashMap<*const PoolScheduler, Vec<_>> = HashMap::new();
        for listed in open {
            if let Some(scheduler) = directory.endpoints.get(&listed.endpoint) {
                shares
                    .entry(Arc::as_ptr(scheduler))
                    .or_default()
                    .push(listed);
            }
        }
        for PoolHandle { scheduler, .. } in directory.pools.values() {
            scheduler.replace_proxy(
                proxy,
                shares.remove(&Arc::as_ptr(scheduler)).unwrap_or_default(),
                now,
            );
        }
    }

    /// A request is over that was never sent anywhere: its booking is wherever it was made.
    pub(crate) fn finished_unsent(&self, key: RequestKey) {
        let now = self.now();
        self.all()
            .for_each(|scheduler| scheduler.finished(key, FinishReport::RELEASE, now));
    }

    /// The first byte of a leg came whose pool is not known.
    pub(crate) fn first_byte(&self, leg: LegKey, ttft: Duration) {
        let now = self.now();
        self.all()
            .for_each(|scheduler| scheduler.first_byte(leg, ttft, now));
    }

    /// The KV events of every pool that follows them.
    #[must_use]
    pub(crate) fn kv_events(&self) -> Vec<(Arc<str>, Arc<KvEvents>)> {
        let directory = self.directory.load();
        let followed = directory
            .pools
            .iter()
            .filter_map(|(name, handle)| Some((name, handle.resources.kv_events.as_ref()?)));
        followed
            .map(|(name, events)| (Arc::clone(name), Arc::clone(events)))
            .collect()
    }

    /// How every pool stands.
    #[must_use]
    pub(crate) fn census(&self) -> Vec<(Arc<str>, PoolCensus)> {
        let directory = self.directory.load_full();
        directory
            .pools
            .iter()
            .map(|(name, handle)| (Arc::clone(name), handle.scheduler.census()))
            .collect()
    }

    /// Everything, for people.
    pub(crate) fn view(&self) -> Vec<PoolLoadView> {
        let (directory, now) = (self.directory.load_full(), self.now());
        let pools = directory
            .pools
            .iter()
            .map(|(name, PoolHandle { scheduler, .. })| PoolLoadView {
                pool: Arc::clone(name),
                bookings: scheduler.census().bookings,
                endpoints: scheduler.view(now),
            });
        pools.collect()
    }

    fn all(&self) -> impl Iterator<Item = Arc<PoolScheduler>> {
        let directory = self.directory.load_full();
        let schedulers: Vec<_> = directory
            .pools
            .values()
            .map(|handle| Arc::clone(&handle.scheduler))
            .collect();
        schedulers.into_iter()
    }
}

// === PoolHandle ===

impl PoolHandle {
    /// Passes the pool's endpoints and block size to the resources that need them.
    fn update_resources(&self) {
        let PoolResources {
            kv_manager,
            kv_events,
            tokenizer,
            ..
        } = &self.resources;
        if let Some(events) = kv_events {
            events.expire();
        }
        if kv_manager.is_none() && tokenizer.is_none() {
            return;
        }
        let pool = self.scheduler.pool();
        if let Some(tokenizer) = tokenizer {
            tokenizer.follow(&pool);
        }
        if let Some(manager) = kv_manager {
            manager.follow(&pool, self.scheduler.block_size());
        }
    }
}
