//! The proxy's metrics. The help text of each family is its documentation; `docs/metrics.md` is
//! checked against it.
//!
//! ```text
//!   ProxyMetrics ── families of the process ──┬─ RequestFamilies    ── ModelMetrics ─┐
//!                                             ├─ SelectionFamilies  ── PoolMetrics  ─┴─ view: one per pool and model
//!                                             ├─ EndpointFamilies, AskFamilies ──┘
//!                                             └─ SyncMetrics, PickerMetrics
//! ```
//!
//! Labels are bounded: pools, models and endpoints come from the snapshot, everything else from
//! closed sets. Handles are resolved when a snapshot is applied, so that a request touches atomics
//! only. A request that is rewritten counts for its target, which is what endpoints serve. The
//! series of a pool or a model are removed when no view and no request uses them.

mod asked_picker;
mod endpoints;
mod pairs;
mod picker;
mod requests;
mod routes;
mod selections;
mod sync;

use std::{collections::HashMap, sync::Arc};

use hermes_core::snapshot::Pool;
use hermes_runtime::metrics::{HandleCache, Handles, SeriesScope};
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};

use self::{
    asked_picker::AskFamilies, endpoints::EndpointFamilies, pairs::PairFamilies,
    requests::RequestFamilies, routes::RouteFamilies, selections::SelectionFamilies,
};
pub(crate) use self::{
    asked_picker::{AskMetrics, AskResult},
    endpoints::{
        AnswerClass, AttemptOutcome, ConnectFailure, ConnectionMetrics, EjectionReason,
        EndpointMetrics,
    },
    pairs::{PairEnd, PairMetrics},
    picker::{PickerMetrics, PickerStreamEnd},
    requests::{ModelMetrics, RequestOutcome},
    routes::{ClientHandshake, MirrorResult, PortMetrics, RouteMetrics, RouteResult},
    selections::{FallbackLevel, ScoreFailure, SelectionMetrics},
    sync::{SnapshotResult, SyncMetrics},
};

/// The model label of names that no snapshot has.
const OTHER: &str = "other";

/// Every family of the data plane.
pub(crate) struct ProxyMetrics {
    pub(crate) requests: RequestFamilies,
    pub(crate) endpoints: EndpointFamilies,
    pub(crate) sync: SyncMetrics,
    pub(crate) picker: PickerMetrics,
    pub(crate) ports: PortMetrics,
    selections: SelectionFamilies,
    pairs: PairFamilies,
    asked: AskFamilies,
    routes: RouteFamilies,
    by_route: HandleCache<Arc<str>, RouteMetrics>,
    pools: HandleCache<Arc<str>, PoolMetrics>,
    models: HandleCache<ModelKey, ModelMetrics>,
}

/// One pool's handles.
pub(crate) struct PoolMetrics {
    pub(crate) in_flight: Gauge,
    pub(crate) selections: SelectionMetrics,
    pub(crate) endpoints: EndpointMetrics,
    pub(crate) pairs: PairMetrics,
    pub(crate) asked: AskMetrics,
}

/// The handles of a pool's models.
pub(crate) struct ModelTable {
    by_name: HashMap<Arc<str>, Arc<ModelHandles>>,
    other: Arc<ModelHandles>,
}

/// [`ModelMetrics`] as they are shared.
pub(crate) type ModelHandles = Handles<ModelMetrics, ModelKey>;

/// Pool and model.
type ModelKey = (Arc<str>, Arc<str>);

// === ProxyMetrics ===

impl ProxyMetrics {
    /// Declares every family.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        Self {
            requests: RequestFamilies::register(registry),
            endpoints: EndpointFamilies::register(registry),
            sync: SyncMetrics::register(registry),
            picker: PickerMetrics::register(registry),
            selections: SelectionFamilies::register(registry),
            pairs: PairFamilies::register(registry),
            asked: AskFamilies::register(registry),
            ports: PortMetrics::register(registry),
            routes: RouteFamilies::register(registry),
            by_route: HandleCache::default(),
            pools: HandleCache::default(),
            models: HandleCache::default(),
        }
    }

    /// The handles of one pool.
    pub(crate) fn pool(&self, pool: &Arc<str>) -> Arc<Handles<PoolMetrics>> {
        self.pools.get(pool, |series| PoolMetrics {
            in_flight: self.requests.in_flight(pool, series),
            selections: self.selections.of_pool(pool, series),
            endpoints: self.endpoints.of_pool(pool, series),
            pairs: self.pairs.of_pool(pool, series),
            asked: self.asked.of_pool(pool, series),
        })
    }

    /// The handles of one route.
    pub(crate) fn route(&self, route: &Arc<str>) -> Arc<Handles<RouteMetrics>> {
        let of_route = |series: &mut SeriesScope| self.routes.of_route(route, series);
        self.by_route.get(route, of_route)
    }

    /// The handles of the models of one pool.
    pub(crate) fn models(&self, pool: &Pool) -> ModelTable {
        let own = pool.models.iter().map(|model| &model.name);
        let targets = pool
            .spec
            .rewrites
            .iter()
            .flat_map(|rewrite| &*rewrite.targets);
        let targets = targets.map(|target| &target.model);
        let pool = &pool.spec.name;
        ModelTable {
            by_name: own
                .chain(targets)
                .map(|model| (Arc::clone(model), self.model(pool, model)))
                .collect(),
            other: self.model(pool, &OTHER.into()),
        }
    }

    fn model(&self, pool: &Arc<str>, model: &Arc<str>) -> Arc<ModelHandles> {
        let key = (Arc::clone(pool), Arc::clone(model));
        self.models
            .get(&key, |series| self.requests.of_model(pool, model, series))
    }
}

// === ModelTable ===

impl ModelTable {
    /// The handles of a model; names that the snapshot does not have share one.
    pub(crate) fn get(&self, name: Option<&str>) -> &Arc<ModelHandles> {
        name.and_then(|name| self.by_name.get(name))
            .unwrap_or(&self.other)
    }
}

#[cfg(test)]
mod tests {
    use hermes_core::{
        policy::PoolPolicy,
        snapshot::{Model, ModelHolders, PoolSpec},
    };
    use hermes_runtime::metrics::Exposition;

    use super::*;

    fn pool(models: &[&str]) -> Pool {
        let model = |name: &&str| {
            Arc::new(Model {
                name: (*name).into(),
                parent: None,
                max_model_len: None,
                holders: ModelHolders::All,
            })
        };
        Pool {
            spec: Arc::new(PoolSpec::new("chat", PoolPolicy::default())),
            models: models.iter().map(model).collect(),
            endpoints: hermes_core::collection::Collection::default(),
        }
    }

    #[test]
    fn series_of_a_model_end_with_the_last_view_that_has_it() {
        let mut registry = Registry::default();
        let metrics = ProxyMetrics::register(&mut registry);
        let exposed = |model: &str| {
            let text = Exposition::Prometheus.encode(&registry).expect("encodes");
            text.contains(&format!("model=\"{model}\""))
        };
        let first = metrics.models(&pool(&["base", "adapter"]));
        let second = metrics.models(&pool(&["base"]));
        first.get(Some("base")).requests[RequestOutcome::Ok].inc();
        assert!(exposed("adapter"));
        drop(first);
        assert!(!exposed("adapter") && exposed("base") && exposed(OTHER));
        assert_eq!(
            second.get(Some("base")).requests[RequestOutcome::Ok].get(),
            1
        );
        drop(second);
        assert!(!exposed("base"));
    }
}
