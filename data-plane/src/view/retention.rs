//! What a view keeps of a pool that its replica has not discovered completely.
//!
//! A control plane that restarts publishes its configured pools before its discovery has listed
//! them; while the Kubernetes API server is unreachable, discovery never lists. The view keeps the
//! endpoints and models that it had until then.

use std::sync::Arc;

use hermes_core::snapshot::{Endpoint, Model, Pool, PoolSpec};

/// The newest `pool`, completed by what `previous` has of its pending lists.
pub(super) fn complete(pool: &Arc<Pool>, previous: Option<&Pool>) -> Arc<Pool> {
    let pending = pool.spec.pending;
    let Some(previous) = previous.filter(|_| pending.any()) else {
        return Arc::clone(pool);
    };
    let endpoints = if pending.endpoints {
        merged(&pool.endpoints, &previous.endpoints, |endpoint| endpoint.id)
    } else {
        pool.endpoints.clone()
    };
    let spec = if pending.models {
        let name = |model: &Model| Arc::clone(&model.name);
        Arc::new(PoolSpec {
            models: merged(&previous.spec.models, &pool.spec.models, name),
            ..PoolSpec::clone(&pool.spec)
        })
    } else {
        Arc::clone(&pool.spec)
    };
    Arc::new(Pool { spec, endpoints })
}

/// Whether a replica that publishes `published` lacks a part of the pool as the view has it.
pub(crate) fn lacks(published: &Pool, viewed: &Pool) -> bool {
    let pending = published.spec.pending;
    let is_missing = |endpoint: &Arc<Endpoint>| published.position(endpoint.id).is_none();
    let is_unknown = |model: &Model| published.model(&model.name) != Some(model);
    (pending.endpoints && viewed.endpoints.iter().any(is_missing))
        || (pending.models && viewed.spec.models.iter().any(is_unknown))
}

/// Both lists, sorted by key; an entry of `first` replaces one of `second`.
fn merged<T: Clone, K: Ord>(first: &[T], second: &[T], key: impl Fn(&T) -> K) -> Vec<T> {
    let mut all = [first, second].concat();
    all.sort_by_key(&key);
    all.dedup_by(|later, earlier| key(later) == key(earlier));
    all
}

#[cfg(test)]
mod tests {
    use hermes_core::{
        policy::PoolPolicy,
        snapshot::{EndpointId, ModelHolders, PendingDiscovery, Role},
    };

    use super::*;

    const BOTH: PendingDiscovery = PendingDiscovery {
        endpoints: true,
        models: true,
    };
    const NONE: PendingDiscovery = PendingDiscovery {
        endpoints: false,
        models: false,
    };

    fn pool(endpoints: &[u64], models: &[&str], pending: PendingDiscovery) -> Arc<Pool> {
        let endpoint = |&id: &u64| {
            Arc::new(Endpoint {
                id: EndpointId(id),
                url: format!("http://10.0.0.{id}:8000").into(),
                name: "pod".into(),
                role: Role::Aggregate,
                group: None,
            })
        };
        let model = |name: &&str| Model {
            name: (*name).into(),
            parent: None,
            max_model_len: None,
            holders: ModelHolders::All,
        };
        Arc::new(Pool {
            spec: Arc::new(PoolSpec {
                name: "chat".into(),
                models: models.iter().map(model).collect(),
                policy: PoolPolicy::default(),
                pending,
            }),
            endpoints: endpoints.iter().map(endpoint).collect(),
        })
    }

    fn ids(pool: &Pool) -> Vec<u64> {
        let ids = pool.endpoints.iter().map(|endpoint| endpoint.id.0);
        ids.collect()
    }

    #[test]
    fn a_pending_pool_keeps_the_endpoints_and_models_of_the_previous_view() {
        let previous = pool(&[1, 2], &["base", "lora"], NONE);
        let published = pool(&[2, 3], &["base"], BOTH);
        let viewed = complete(&published, Some(&previous));
        assert_eq!(ids(&viewed), [1, 2, 3]);
        let models = viewed.spec.models.iter().map(|model| &*model.name);
        assert_eq!(models.collect::<Vec<_>>(), ["base", "lora"]);
        assert!(lacks(&published, &viewed));
        let next = complete(&pool(&[], &[], BOTH), Some(&viewed));
        assert_eq!(ids(&next), [1, 2, 3], "over several snapshots");
    }

    #[test]
    fn a_discovered_pool_replaces_the_previous_one() {
        let previous = pool(&[1, 2], &["base", "lora"], BOTH);
        let published = pool(&[2], &["base"], NONE);
        let viewed = complete(&published, Some(&previous));
        assert!(Arc::ptr_eq(&published, &viewed));
        assert!(!lacks(&published, &viewed));
    }

    #[test]
    fn a_first_view_has_nothing_to_keep() {
        let published = pool(&[], &[], BOTH);
        let viewed = complete(&published, None);
        assert!(Arc::ptr_eq(&published, &viewed) && !lacks(&published, &viewed));
    }
}
