//! What a view keeps of a pool that its replica has not discovered completely.
//!
//! A control plane that restarts publishes its configured pools before its discovery has listed
//! them; while the Kubernetes API server is unreachable, discovery never lists. The view keeps the
//! endpoints and models that it had until then, and what endpoints stated of their ranks.

use std::sync::Arc;

use hermes_core::{
    collection::{Collection, Keyed},
    snapshot::{Endpoint, EndpointId, Model, ModelHolders, Pool},
};

/// The newest `pool`, completed by what `previous` has of its pending lists.
pub(super) fn complete(pool: &Arc<Pool>, previous: Option<&Pool>) -> Arc<Pool> {
    let pending = pool.spec.pending;
    let Some(previous) = previous.filter(|_| pending.any()) else {
        return Arc::clone(pool);
    };
    let endpoints = if pending.endpoints {
        merged(&pool.endpoints, &previous.endpoints)
    } else {
        pool.endpoints.clone()
    };
    let endpoints = if pending.models {
        with_ranks(&endpoints, previous)
    } else {
        endpoints
    };
    let models = if pending.models {
        merged(&retained_models(previous), &pool.models)
    } else {
        pool.models.clone()
    };
    Arc::new(Pool {
        spec: Arc::clone(&pool.spec),
        models,
        endpoints,
    })
}

/// Whether a replica that publishes `published` lacks a part of the pool as the view has it.
pub(crate) fn lacks(published: &Pool, viewed: &Pool) -> bool {
    let pending = published.spec.pending;
    let is_missing = |endpoint: &Arc<Endpoint>| published.position(endpoint.id).is_none();
    let is_unknown = |model: &Arc<Model>| published.model(&model.name) != Some(model);
    (pending.endpoints && viewed.endpoints.iter().any(is_missing))
        || (pending.models && viewed.models.iter().any(is_unknown))
}

/// Both collections; a value of `first` replaces one of `second`.
fn merged<T: Keyed>(first: &Collection<T>, second: &Collection<T>) -> Collection<T> {
    second.iter().chain(first).cloned().collect()
}

/// These endpoints, with the ranks that they had in the `previous` pool where none are known.
fn with_ranks(endpoints: &Collection<Endpoint>, previous: &Pool) -> Collection<Endpoint> {
    let completed = endpoints.iter().map(|endpoint| {
        let before = previous.endpoints.find(&endpoint.id);
        let ranks = before.and_then(|before| before.pairing.ranks.clone());
        if endpoint.pairing.ranks.is_some() || ranks.is_none() {
            return Arc::clone(endpoint);
        }
        let mut completed = Endpoint::clone(endpoint);
        completed.pairing.ranks = ranks;
        Arc::new(completed)
    });
    completed.collect()
}

/// The models of `pool`, each with the list of its holders: endpoints that are added to the pool
/// are not known to hold it.
fn retained_models(pool: &Pool) -> Collection<Model> {
    let listed = |model: &Arc<Model>| {
        let ModelHolders::Except(others) = &model.holders else {
            return Arc::clone(model);
        };
        let ids = pool.endpoints.iter().map(|endpoint| endpoint.id);
        let holds = |id: &EndpointId| others.binary_search(id).is_err();
        Arc::new(Model {
            holders: ModelHolders::Some(ids.filter(holds).collect()),
            ..Model::clone(model)
        })
    };
    pool.models.iter().map(listed).collect()
}

#[cfg(test)]
mod tests {
    use hermes_core::{
        policy::PoolPolicy,
        snapshot::{EngineRank, PendingDiscovery, PoolSpec, Role},
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
                address: format!("http://10.0.0.{id}:8000")
                    .parse()
                    .expect("an address"),
                name: "pod".into(),
                role: Role::Aggregate,
                group: None,
                pairing: hermes_core::snapshot::PairingFacts::default(),
            })
        };
        let model = |name: &&str| {
            Arc::new(Model {
                name: (*name).into(),
                parent: None,
                max_model_len: None,
                holders: ModelHolders::All,
            })
        };
        Arc::new(Pool {
            spec: Arc::new(PoolSpec {
                pending,
                ..PoolSpec::new("chat", PoolPolicy::default())
            }),
            models: models.iter().map(model).collect(),
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
        let models = viewed.models.iter().map(|model| &*model.name);
        assert_eq!(models.collect::<Vec<_>>(), ["base", "lora"]);
        assert!(lacks(&published, &viewed));
        let next = complete(&pool(&[], &[], BOTH), Some(&viewed));
        assert_eq!(ids(&next), [1, 2, 3], "over several snapshots");
    }

    #[test]
    fn a_retained_adapter_is_not_expected_on_endpoints_that_are_new() {
        let mut previous = Pool::clone(&pool(&[1, 2, 3], &[], NONE));
        let model = Model {
            name: "lora".into(),
            parent: None,
            max_model_len: None,
            holders: ModelHolders::Except([EndpointId(2)].into()),
        };
        previous.models = vec![Arc::new(model)].into();
        let viewed = complete(&pool(&[4], &[], BOTH), Some(&previous));
        assert_eq!(ids(&viewed), [1, 2, 3, 4]);
        let holders = ModelHolders::Some([1, 3].map(EndpointId).into());
        assert_eq!(viewed.models[0].holders, holders);
    }

    #[test]
    fn ranks_are_kept_until_every_endpoint_was_asked() {
        let ranks = |id: &str| -> Option<Arc<[EngineRank]>> {
            let engine_id = id.into();
            Some([EngineRank { rank: 0, engine_id }].into())
        };
        let with = |pending, known: [Option<Arc<[EngineRank]>>; 2]| {
            let mut pool = Pool::clone(&pool(&[1, 2], &[], pending));
            let endpoints = pool.endpoints.iter().zip(known).map(|(endpoint, ranks)| {
                let mut endpoint = Endpoint::clone(endpoint);
                endpoint.pairing.ranks = ranks;
                Arc::new(endpoint)
            });
            pool.endpoints = endpoints.collect();
            Arc::new(pool)
        };
        let previous = with(NONE, [ranks("a"), ranks("b")]);
        let viewed = |pending| {
            let published = with(pending, [None, ranks("c")]);
            let viewed = complete(&published, Some(&previous));
            let found = viewed.endpoints.iter();
            found
                .map(|endpoint| endpoint.pairing.ranks.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(viewed(BOTH), [ranks("a"), ranks("c")]);
        assert_eq!(viewed(NONE), [None, ranks("c")]);
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
