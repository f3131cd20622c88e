//! The newest snapshot, ready to route by: everything that can be computed when it changes is not computed per request.
//!
//! A request loads one [`RoutingView`] and sees that one cluster to its end. Views share what outlives a snapshot:
//! connections and counts of endpoints, turns and budgets of pools.

pub(crate) mod history;
pub(crate) mod models;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use hermes_core::{
    budget::RetryBudget,
    nearest::nearest,
    pick::Picker,
    policy::Settings,
    snapshot::{EndpointId, Pool, Snapshot},
};

use crate::{
    endpoint::Upstream,
    request::local_reply::{LocalReply, echo},
    telemetry::metrics::{Metrics, PoolMetrics},
    view::history::PoolHistory,
};

/// A snapshot with what routing by it needs.
pub(crate) struct RoutingView {
    pub(crate) snapshot: Arc<Snapshot>,
    /// In the snapshot's order.
    pub(crate) pools: Vec<Arc<RoutingPool>>,
    /// Position of the pool that serves a model.
    by_model: HashMap<Arc<str>, usize>,
}

/// A pool with what routing in it needs.
pub(crate) struct RoutingPool {
    pub(crate) pool: Arc<Pool>,
    pub(crate) picker: Picker,
    /// In the order of the pool's endpoints.
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    pub(crate) metrics: Arc<PoolMetrics>,
    pub(crate) budget: Arc<RetryBudget>,
    /// Present if the strategy reads prompts' hashes.
    pub(crate) history: Option<Arc<PoolHistory>>,
    turn: Arc<AtomicU64>,
}

// === RoutingView ===

impl RoutingView {
    /// The view of `snapshot`, which takes over from `previous` whatever still exists.
    pub(crate) fn build(
        snapshot: Arc<Snapshot>,
        previous: Option<&RoutingView>,
        metrics: &Metrics,
    ) -> Self {
        let mut by_model = HashMap::new();
        let mut pools = Vec::with_capacity(snapshot.pools.len());
        for (position, pool) in snapshot.pools.iter().enumerate() {
            for model in &pool.spec.models {
                by_model.entry(Arc::clone(&model.name)).or_insert(position);
            }
            let before = previous.and_then(|view| view.pool(&pool.spec.name));
            pools.push(match before {
                Some(before) if Arc::ptr_eq(&before.pool, pool) => Arc::clone(before),
                _ => Arc::new(RoutingPool::build(Arc::clone(pool), before, metrics)),
            });
        }
        Self {
            snapshot,
            pools,
            by_model,
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.snapshot.settings
    }

    pub(crate) fn pool(&self, name: &str) -> Option<&Arc<RoutingPool>> {
        let found = self
            .pools
            .binary_search_by(|pool| (*pool.pool.spec.name).cmp(name))
            .ok()?;
        Some(&self.pools[found])
    }

    /// The pool that serves a request for this model; with no model, the only pool.
    pub(crate) fn route(&self, model: Option<&str>) -> Result<&Arc<RoutingPool>, LocalReply> {
        let Some(model) = model else {
            return match self.pools.as_slice() {
                [only] => Ok(only),
                _ => Err(LocalReply::NoModel(
                    self.model_names().take(20).map(str::to_owned).collect(),
                )),
            };
        };
        if let Some(&position) = self.by_model.get(model) {
            return Ok(&self.pools[position]);
        }
        // A pool whose models nobody told takes any name: its engines will judge.
        let mut open = self
            .pools
            .iter()
            .filter(|pool| pool.pool.spec.models.is_empty());
        if let (Some(only), None) = (open.next(), open.next()) {
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

    /// The upstream of this endpoint, in whichever pool.
    pub(crate) fn upstream(&self, id: EndpointId) -> Option<(&Arc<RoutingPool>, &Arc<Upstream>)> {
        self.pools
            .iter()
            .find_map(|pool| Some((pool, &pool.upstreams[pool.pool.position(id)?])))
    }

    fn model_names(&self) -> impl Iterator<Item = &str> {
        self.pools
            .iter()
            .flat_map(|pool| pool.pool.spec.models.iter().map(|model| &*model.name))
    }
}

// === RoutingPool ===

impl RoutingPool {
    fn build(pool: Arc<Pool>, before: Option<&Arc<RoutingPool>>, metrics: &Metrics) -> Self {
        let policy = &pool.spec.policy;
        let upstreams = pool
            .endpoints
            .iter()
            .map(|endpoint| {
                let known = before
                    .and_then(|before| Some(&before.upstreams[before.pool.position(endpoint.id)?]));
                match known {
                    Some(known) if known.endpoint == *endpoint => Arc::clone(known),
                    _ => Arc::new(Upstream::new(Arc::clone(endpoint), policy.breaker)),
                }
            })
            .collect();
        let same_budget = before.filter(|before| before.pool.spec.policy.retry == policy.retry);
        Self {
            picker: Picker::build(Arc::clone(&pool)),
            upstreams,
            metrics: metrics.pool(&pool.spec),
            budget: same_budget.map_or_else(
                || Arc::new(RetryBudget::new(policy.retry.budget)),
                |before| Arc::clone(&before.budget),
            ),
            history: policy
                .strategy
                .needs_prefix()
                .then(|| recall(policy.block_bytes, before)),
            turn: before.map_or_else(Arc::default, |before| Arc::clone(&before.turn)),
            pool,
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.pool.spec.name
    }

    /// Counts the turns of round robin.
    pub(crate) fn next_round_robin(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

/// What is remembered of the pool, unless it is of hashes over other blocks.
fn recall(block_bytes: u32, before: Option<&Arc<RoutingPool>>) -> Arc<PoolHistory> {
    let known = before
        .and_then(|before| before.history.as_ref())
        .filter(|recall| recall.block_bytes() == block_bytes);
    known.map_or_else(|| Arc::new(PoolHistory::new(block_bytes)), Arc::clone)
}
