//! The newest snapshot, prepared for routing: what depends on the snapshot alone is computed once
//! per snapshot.
//!
//! A request loads one [`RoutingView`] and uses it to its end. Consecutive views share what
//! outlives a snapshot: connections and in-flight counts of endpoints, round-robin counters and
//! retry budgets of pools.

pub(crate) mod history;
pub(crate) mod models;
pub(crate) mod pickers;
pub(crate) mod retention;
pub(crate) mod routes;

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hermes_core::{
    nearest::nearest,
    pick::Picker,
    policy::ProxySettings,
    refusals::PeerAnswers,
    retry_budget::RetryBudget,
    snapshot::{EndpointId, ModelHolders, Pool, Snapshot},
};

use hermes_runtime::metrics::Handles;

use crate::{
    asked_picker::PickerClient,
    endpoint::{PoolTls, Upstream},
    request::local_reply::{LocalReply, echo},
    telemetry::metrics::{ModelTable, PoolMetrics, ProxyMetrics},
    view::{history::PoolHistory, routes::RouteMap},
};

/// A snapshot, prepared for routing.
pub(crate) struct RoutingView {
    pub(crate) snapshot: Arc<Snapshot>,
    /// In the snapshot's order.
    pub(crate) pools: Vec<Arc<RoutingPool>>,
    pub(crate) routes: Arc<RouteMap>,
    /// Position of the pool that serves a model, by itself or by a rewrite.
    by_model: HashMap<Arc<str>, usize>,
}

/// A pool, prepared for routing.
pub(crate) struct RoutingPool {
    pub(crate) pool: Arc<Pool>,
    /// The pool as the view had it before its replica started; `None` once that replica has
    /// discovered the pool.
    retained: Option<Arc<Pool>>,
    pub(crate) picker: Picker,
    /// In the order of the pool's endpoints.
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    pub(crate) metrics: Arc<Handles<PoolMetrics>>,
    pub(crate) models: ModelTable,
    pub(crate) budget: Arc<RetryBudget>,
    /// How its endpoints' connections are secured.
    tls: PoolTls,
    /// The picker that chooses its endpoints, if that is another one.
    pub(crate) asked: Option<Arc<PickerClient>>,
    /// Present if the strategy reads prompts' hashes.
    pub(crate) history: Option<Arc<PoolHistory>>,
    round_robin_counter: Arc<AtomicU64>,
}

// === RoutingView ===

impl RoutingView {
    /// Builds the view of `snapshot`, the newest; state of pools and endpoints that still exist is
    /// taken over from `previous`. `workers` is the number of threads that will send requests.
    pub(crate) fn build(
        snapshot: Arc<Snapshot>,
        previous: Option<&RoutingView>,
        metrics: &ProxyMetrics,
        workers: NonZeroUsize,
    ) -> Self {
        // Versions of one run follow each other; another run begins with pools that it has not
        // discovered.
        let continues = previous.is_some_and(|view| view.snapshot.epoch == snapshot.epoch);
        let mut by_model = HashMap::new();
        let mut pools = Vec::with_capacity(snapshot.pools.len());
        for (position, published) in snapshot.pools.iter().enumerate() {
            let before = previous.and_then(|view| view.pool(&published.spec.name));
            let retained = before
                .filter(|_| published.spec.pending.any())
                .and_then(|before| before.retained_by(continues));
            let pool = retention::complete(published, retained.as_deref());
            for name in models::names(&pool) {
                by_model.entry(Arc::clone(name)).or_insert(position);
            }
            pools.push(match before {
                Some(before) if before.is_of(&pool, retained.as_ref()) => Arc::clone(before),
                _ => Arc::new(RoutingPool {
                    retained,
                    ..RoutingPool::build(pool, before, metrics, workers)
                }),
            });
        }
        let before = previous.map(|view| &view.routes);
        let view = Self {
            routes: RouteMap::build(&snapshot, before, metrics),
            snapshot,
            pools,
            by_model,
        };
        if let Some(previous) = previous {
            view.release(previous);
        }
        view
    }

    /// Lets go of the endpoints that only `previous` has.
    fn release(&self, previous: &RoutingView) {
        for before in &previous.pools {
            let after = self.pool(before.name());
            if after.is_some_and(|after| Arc::ptr_eq(after, before)) {
                continue;
            }
            let is_removed = |upstream: &&Arc<Upstream>| {
                let position = after.and_then(|after| after.pool.position(upstream.endpoint.id));
                let kept = after.zip(position);
                kept.is_none_or(|(after, at)| !after.upstreams[at].is_same(upstream))
            };
            let removed = before.upstreams.iter().filter(is_removed);
            removed.for_each(|upstream| upstream.remove());
        }
    }

    pub(crate) fn settings(&self) -> &ProxySettings {
        &self.snapshot.settings
    }

    pub(crate) fn pool(&self, name: &str) -> Option<&Arc<RoutingPool>> {
        let found = self
            .pools
            .binary_search_by(|pool| (*pool.pool.spec.name).cmp(name))
            .ok()?;
        Some(&self.pools[found])
    }

    /// The pool that serves a request for this model; with no model, the only pool, or else the only
    /// one that rewrites any model.
    pub(crate) fn route(&self, model: Option<&str>) -> Result<&Arc<RoutingPool>, LocalReply> {
        let Some(model) = model else {
            return match self.pools.as_slice() {
                [only] => Ok(only),
                _ => self.only(RoutingPool::rewrites_any_model).ok_or_else(|| {
                    LocalReply::NoModel(self.model_names().take(20).map(str::to_owned).collect())
                }),
            };
        };
        if let Some(&position) = self.by_model.get(model) {
            return Ok(&self.pools[position]);
        }
        // A pool without a list of models accepts any name; its engines reject unknown ones. So does
        // a pool that rewrites any model.
        if let Some(only) = self.only(RoutingPool::accepts_any_model) {
            return Ok(only);
        }
        let nearest = nearest(model, self.model_names())
            .into_iter()
            .map(str::to_owned)
            .collect();
        Err(LocalReply::UnknownModel {
            model: echo(model),
            nearest,
        })
    }

    /// The pool of which this holds, if it is one.
    fn only(&self, holds: impl Fn(&RoutingPool) -> bool) -> Option<&Arc<RoutingPool>> {
        let mut pools = self.pools.iter().filter(|pool| holds(pool));
        pools.next().filter(|_| pools.next().is_none())
    }

    /// The upstream of this endpoint and its pool.
    pub(crate) fn upstream(&self, id: EndpointId) -> Option<(&Arc<RoutingPool>, &Arc<Upstream>)> {
        self.pools
            .iter()
            .find_map(|pool| Some((pool, &pool.upstreams[pool.pool.position(id)?])))
    }

    fn model_names(&self) -> impl Iterator<Item = &str> {
        self.pools
            .iter()
            .flat_map(|pool| models::names(&pool.pool).map(|name| &**name))
    }
}

// === RoutingPool ===

impl RoutingPool {
    /// The pool, for requests that a route leads here.
    ///
    /// # Errors
    ///
    /// When it is known not to serve the model.
    pub(crate) fn serving(self: &Arc<Self>, model: Option<&str>) -> Result<&Arc<Self>, LocalReply> {
        let names = || models::names(&self.pool).map(|name| &**name);
        let is_open = self.pool.models.is_empty() || self.rewrites_any_model();
        match model {
            Some(model) if !is_open && !names().any(|name| name == model) => {
                let nearest = nearest(model, names()).into_iter().map(str::to_owned);
                Err(LocalReply::UnknownModel {
                    model: echo(model),
                    nearest: nearest.collect(),
                })
            }
            _ => Ok(self),
        }
    }

    /// Whether this endpoint serves a model; every one does if the model is not known.
    pub(crate) fn holds(&self, model: Option<&str>, endpoint: EndpointId) -> bool {
        let model = model.and_then(|name| self.pool.model(name));
        match model.map(|model| &model.holders) {
            None | Some(ModelHolders::All) => true,
            Some(ModelHolders::Some(holders)) => holders.binary_search(&endpoint).is_ok(),
            Some(ModelHolders::Except(others)) => others.binary_search(&endpoint).is_err(),
        }
    }

    /// Whether it serves requests for models that it does not list.
    fn accepts_any_model(&self) -> bool {
        self.pool.models.is_empty() || self.rewrites_any_model()
    }

    /// Whether it serves requests for any model, and for none, by a rewrite.
    fn rewrites_any_model(&self) -> bool {
        let rewrites = &self.pool.spec.rewrites;
        rewrites.iter().any(|rewrite| rewrite.model.is_none())
    }

    /// Whether one endpoint alone is sent prompts for this model, such as an adapter that is loaded
    /// there, or the only prefill endpoint of a pool whose decode endpoints serve nothing alone: no
    /// peer can say whose fault a refusal is.
    pub(crate) fn has_one_holder(&self, model: Option<&str>) -> bool {
        self.picker.servers(model) == 1
    }

    fn build(
        pool: Arc<Pool>,
        before: Option<&Arc<RoutingPool>>,
        metrics: &ProxyMetrics,
        workers: NonZeroUsize,
    ) -> Self {
        let policy = &pool.spec.policy;
        let tls_before = before.map(|before| (&before.pool.spec.policy.trust, &before.tls));
        let tls = PoolTls::of(&pool, tls_before);
        let upstreams = pool
            .endpoints
            .iter()
            .map(|endpoint| {
                let known = before
                    .and_then(|before| Some(&before.upstreams[before.pool.position(endpoint.id)?]));
                match known {
                    Some(known)
                        if known.endpoint.address == endpoint.address
                            && !is_other_protocol(known, pool.spec.http2) =>
                    {
                        known.secure_by(&tls);
                        known.eject_by(policy.ejection);
                        if known.endpoint == *endpoint {
                            Arc::clone(known)
                        } else {
                            Arc::new(known.renamed(Arc::clone(endpoint)))
                        }
                    }
                    _ => Arc::new(Upstream::new(
                        Arc::clone(endpoint),
                        (&tls, pool.spec.http2),
                        policy.ejection,
                        workers,
                    )),
                }
            })
            .collect();
        let same_budget = before.filter(|before| before.pool.spec.policy.retry == policy.retry);
        Self {
            retained: None,
            picker: Picker::build(Arc::clone(&pool)),
            upstreams,
            metrics: metrics.pool(&pool.spec.name),
            models: metrics.models(&pool),
            budget: same_budget.map_or_else(
                || Arc::new(RetryBudget::new(policy.retry.budget)),
                |before| Arc::clone(&before.budget),
            ),
            tls,
            asked: asked(&pool, before, workers),
            history: policy
                .strategy
                .needs_prefix()
                .then(|| history(policy.block_bytes, before)),
            round_robin_counter: before.map_or_else(Arc::default, |before| {
                Arc::clone(&before.round_robin_counter)
            }),
            pool,
        }
    }

    /// Whether it was built from this pool, or from one that is equal: a replica that is followed
    /// next sends the same pools again, and a pending pool is completed again.
    fn is_of(&self, pool: &Arc<Pool>, retained: Option<&Arc<Pool>>) -> bool {
        let is_same_retained = match (&self.retained, retained) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (own, other) => own.is_none() && other.is_none(),
        };
        is_same_retained && (Arc::ptr_eq(&self.pool, pool) || self.pool == *pool)
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.pool.spec.name
    }

    /// What the next view keeps of this pool while it is pending; `continues`: in a snapshot of the
    /// same run.
    fn retained_by(&self, continues: bool) -> Option<Arc<Pool>> {
        if continues {
            self.retained.clone()
        } else {
            Some(Arc::clone(&self.pool))
        }
    }

    /// The answers of an endpoint's peers.
    pub(crate) fn peers_of(&self, upstream: &Upstream, now: Duration) -> PeerAnswers {
        let mut peers = PeerAnswers::default();
        let own = self.pool.position(upstream.endpoint.id).unwrap_or(0);
        for position in PeerAnswers::positions(own, self.upstreams.len()) {
            self.upstreams[position].join(&mut peers, now);
        }
        peers
    }

    /// Advances the round-robin counter.
    pub(crate) fn next_round_robin(&self) -> u64 {
        self.round_robin_counter.fetch_add(1, Ordering::Relaxed)
    }
}

/// Whether an endpoint was spoken to otherwise than it is now, if its address leaves a choice.
fn is_other_protocol(known: &Upstream, http2: bool) -> bool {
    !known.endpoint.address.is_secured() && known.shared().is_some() != http2
}

/// The connections to the pool's picker, which are kept while it is the same.
fn asked(
    pool: &Pool,
    before: Option<&Arc<RoutingPool>>,
    workers: NonZeroUsize,
) -> Option<Arc<PickerClient>> {
    let picker = pool.spec.asked_picker.as_ref()?;
    let known = before.and_then(|before| before.asked.as_ref());
    match known.filter(|known| known.picker == *picker) {
        Some(known) => Some(Arc::clone(known)),
        None => PickerClient::new(picker, workers).map(Arc::new),
    }
}

/// The pool's history, unless its hashes are over blocks of another size.
fn history(block_bytes: u32, before: Option<&Arc<RoutingPool>>) -> Arc<PoolHistory> {
    let known = before
        .and_then(|before| before.history.as_ref())
        .filter(|history| history.block_bytes() == block_bytes);
    known.map_or_else(|| Arc::new(PoolHistory::new(block_bytes)), Arc::clone)
}

#[cfg(test)]
mod tests;
