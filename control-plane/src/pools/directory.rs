//! All brains of this replica, and the way from a pool's name, or an endpoint, to its brain.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use hermes_core::{
    ledger::{ProxyId, RequestId, RequestKey, RequestPhase},
    scheduler::ReportedUsage,
    snapshot::{EndpointId, Snapshot},
    stored_responses::{ResponseKey, ResponseLocations},
};
use hermes_proto::v1::Outcome;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{
    sync::Notify,
    time::{self, Instant, MissedTickBehavior},
};

use super::scheduler::{Brain, Census, Finish, Row, View};
use crate::{
    cache_sources::{kv_events::KvEvents, kv_manager::KvManager, tokenizer::Tokens},
    engines::Observation,
    metrics::Metrics,
};

/// How often those who wait are looked at while nothing happens: a tenth of what a person notices.
const TURN: Duration = Duration::from_millis(10);

/// Every pool's brain. Readers take no lock to find one.
#[derive(Debug)]
pub(crate) struct Brains {
    directory: ArcSwap<Directory>,
    /// The clock of all brains counts from here.
    start: Instant,
    seed: u64,
    /// Where stored responses live, by the word of every proxy.
    responses: Mutex<ResponseLocations>,
    metrics: Metrics,
    /// Told when somebody begins to wait.
    waits: Notify,
}

/// What a pool needs besides what proxies see of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guide {
    /// Samples older than this are not used.
    pub(crate) stale_after: Duration,
    /// Whom to ask about caches.
    pub(crate) kv_manager: Option<Arc<KvManager>>,
    /// What the engines tell of their caches.
    pub(crate) kv_events: Option<Arc<KvEvents>>,
    /// Makes token ids of prompts, for whoever goes by them.
    pub(crate) tokens: Option<Arc<Tokens>>,
}

/// A pool's brain, and whom to ask before it chooses.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    /// The brain.
    pub(crate) brain: Arc<Brain>,
    /// Whom to ask about caches.
    pub(crate) kv_manager: Option<Arc<KvManager>>,
    /// What the engines tell of their caches.
    pub(crate) kv_events: Option<Arc<KvEvents>>,
    /// Makes token ids of prompts, for whoever goes by them.
    pub(crate) tokens: Option<Arc<Tokens>>,
}

#[derive(Debug, Default)]
struct Directory {
    pools: BTreeMap<Arc<str>, Home>,
    endpoints: HashMap<EndpointId, Arc<Brain>>,
}

/// One pool's endpoints, for people.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PoolView {
    pool: Arc<str>,
    bookings: usize,
    endpoints: Vec<View>,
}

// === Brains ===

impl Brains {
    /// No brains yet. `seed` decides what is left to chance.
    #[must_use]
    pub(crate) fn new(seed: u64, metrics: Metrics) -> Self {
        Self {
            directory: ArcSwap::default(),
            start: Instant::now(),
            seed,
            responses: Mutex::default(),
            metrics,
            waits: Notify::new(),
        }
    }

    /// The time, as brains count it.
    #[must_use]
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Makes the brains those of `snapshot`. One owner calls this; readers go on with the old directory meanwhile.
    pub(crate) fn apply(&self, snapshot: &Snapshot, guide: impl Fn(&str) -> Guide) {
        let (before, now) = (self.directory.load_full(), self.now());
        let mut next = Directory::default();
        for pool in &snapshot.pools {
            let name = &pool.spec.name;
            let Guide {
                stale_after,
                kv_manager,
                kv_events,
                tokens,
            } = guide(name);
            let brain = match before.pools.get(name) {
                Some(home) => {
                    home.brain.apply(pool, stale_after, now);
                    Arc::clone(&home.brain)
                }
                None => {
                    let seed = self.seed ^ EndpointId::of(name, "", "").0;
                    Arc::new(Brain::new(pool, stale_after, self.metrics.pool(name), seed))
                }
            };
            next.endpoints.extend(
                pool.endpoints
                    .iter()
                    .map(|endpoint| (endpoint.id, Arc::clone(&brain))),
            );
            let home = Home {
                brain,
                kv_manager,
                kv_events,
                tokens,
            };
            home.follow();
            next.pools.insert(Arc::clone(name), home);
        }
        let next = Arc::new(next);
        self.directory.store(Arc::clone(&next));
        for (name, home) in before
            .pools
            .iter()
            .filter(|(name, _)| !next.pools.contains_key(*name))
        {
            home.brain.close();
            self.metrics.forget(name);
        }
    }

    /// The brain of a pool.
    #[must_use]
    pub(crate) fn pool(&self, name: &str) -> Option<Home> {
        self.directory.load().pools.get(name).cloned()
    }

    /// The brain of an endpoint's pool.
    #[must_use]
    pub(crate) fn of(&self, endpoint: EndpointId) -> Option<Arc<Brain>> {
        self.directory.load().endpoints.get(&endpoint).cloned()
    }

    /// An endpoint stored a response.
    pub(crate) fn remember_response(&self, response: ResponseKey, endpoint: EndpointId) {
        self.responses.lock().insert(response, endpoint);
    }

    /// Where a stored response lives, as far as any proxy told.
    #[must_use]
    pub(crate) fn response(&self, response: ResponseKey) -> Option<EndpointId> {
        self.responses.lock().endpoint(response)
    }

    /// The collector asked an endpoint.
    pub(crate) fn observe(&self, observation: &Observation) {
        if let Some(brain) = self.of(observation.endpoint) {
            brain.observe(observation, self.now());
        }
    }

    /// A request waits for an endpoint: turns have to be given until nobody does.
    pub(crate) fn somebody_waits(&self) {
        self.waits.notify_one();
    }

    /// Gives turns to those who wait, as often as that can make a difference, and rests while nobody does.
    ///
    /// Most turns come from events, such as a first byte; this is for what follows from time alone.
    pub(crate) async fn give_turns(&self) {
        loop {
            self.waits.notified().await;
            let mut turns = time::interval(TURN);
            turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                turns.tick().await;
                let now = self.now();
                // Every brain has its turn, so no short circuit.
                if self.all().filter(|brain| brain.turn(now)).count() == 0 {
                    break;
                }
            }
        }
    }

    /// Lets time pass in every pool.
    pub(crate) fn tick(&self) {
        let (directory, now) = (self.directory.load_full(), self.now());
        for home in directory.pools.values() {
            home.brain.tick(now);
            // Engines tell the size of their blocks some time after they appear.
            home.follow();
        }
    }

    /// A proxy does not want the answer to a request any more.
    pub(crate) fn cancel(&self, key: RequestKey) {
        let now = self.now();
        self.all().for_each(|brain| _ = brain.cancel(key, now));
    }

    /// A proxy is gone for good.
    pub(crate) fn forget_proxy(&self, proxy: ProxyId) {
        let now = self.now();
        self.all().for_each(|brain| brain.forget_proxy(proxy, now));
    }

    /// A proxy says what it really has open, in all pools.
    pub(crate) fn replace_proxy(
        &self,
        proxy: ProxyId,
        open: impl IntoIterator<Item = (RequestId, EndpointId, u32, RequestPhase)>,
    ) {
        let (directory, now) = (self.directory.load_full(), self.now());
        let mut shares: HashMap<*const Brain, Vec<_>> = HashMap::new();
        for request in open {
            if let Some(brain) = directory.endpoints.get(&request.1) {
                shares.entry(Arc::as_ptr(brain)).or_default().push(request);
            }
        }
        for Home { brain, .. } in directory.pools.values() {
            brain.replace_proxy(
                proxy,
                shares.remove(&Arc::as_ptr(brain)).unwrap_or_default(),
                now,
            );
        }
    }

    /// A request is over that was never sent anywhere: its booking is wherever it was made.
    pub(crate) fn finished_unsent(&self, key: RequestKey) {
        let now = self.now();
        let (outcome, ended) = (Outcome::Unspecified, ReportedUsage::default());
        let finish = Finish {
            endpoint: None,
            outcome,
            ended,
            ttft: None,
        };
        self.all()
            .for_each(|brain| brain.finished(key, finish, now));
    }

    /// The loads of all endpoints that `known` has, as `proxy` is to see them.
    #[must_use]
    pub(crate) fn rows(&self, proxy: ProxyId, known: &Snapshot) -> Vec<Row> {
        let directory = self.directory.load_full();
        let mut rows = Vec::new();
        for pool in &known.pools {
            if let Some(home) = directory.pools.get(&pool.spec.name) {
                home.brain.rows(proxy, pool, &mut rows);
            }
        }
        rows
    }

    /// The KV events of every pool that follows them.
    #[must_use]
    pub(crate) fn kv_events(&self) -> Vec<(Arc<str>, Arc<KvEvents>)> {
        let directory = self.directory.load();
        let followed = directory
            .pools
            .iter()
            .filter_map(|(name, home)| Some((name, home.kv_events.as_ref()?)));
        followed
            .map(|(name, events)| (Arc::clone(name), Arc::clone(events)))
            .collect()
    }

    /// How every pool stands.
    #[must_use]
    pub(crate) fn census(&self) -> Vec<(Arc<str>, Census)> {
        let directory = self.directory.load_full();
        directory
            .pools
            .iter()
            .map(|(name, home)| (Arc::clone(name), home.brain.census()))
            .collect()
    }

    /// Everything, for people.
    pub(crate) fn view(&self) -> Vec<PoolView> {
        let (directory, now) = (self.directory.load_full(), self.now());
        let pools = directory
            .pools
            .iter()
            .map(|(name, Home { brain, .. })| PoolView {
                pool: Arc::clone(name),
                bookings: brain.census().bookings,
                endpoints: brain.view(now),
            });
        pools.collect()
    }

    fn all(&self) -> impl Iterator<Item = Arc<Brain>> {
        let directory = self.directory.load_full();
        let brains: Vec<_> = directory
            .pools
            .values()
            .map(|home| Arc::clone(&home.brain))
            .collect();
        brains.into_iter()
    }
}

// === Home ===

impl Home {
    /// Tells those who are asked which endpoints there are.
    fn follow(&self) {
        if self.kv_manager.is_none() && self.tokens.is_none() {
            return;
        }
        let pool = self.brain.pool();
        if let Some(tokens) = &self.tokens {
            tokens.follow(&pool);
        }
        if let Some(manager) = &self.kv_manager {
            manager.follow(&pool, self.brain.block_size());
        }
    }
}
