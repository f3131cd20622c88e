//! Models that several pools serve. A request names a model and goes to one pool: the first of them
//! by name. The operator who adds a pool beside another sees traffic in one of the two, and should
//! find the reason in the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hermes_core::snapshot::Snapshot;

/// Models that are in several pools at once, with these, and that were logged.
#[derive(Debug, Default)]
pub(super) struct SharedModels(BTreeMap<Arc<str>, BTreeSet<Arc<str>>>);

impl SharedModels {
    /// Logs what the snapshot has, and the one before had not.
    pub(super) fn update(&mut self, snapshot: &Snapshot) {
        let before = std::mem::replace(&mut self.0, shared(snapshot));
        for (model, pools) in &self.0 {
            if before.get(model) != Some(pools) {
                let first = pools.first();
                tracing::warn!(
                    %model,
                    ?pools,
                    first = first.map(|name| &**name),
                    "several pools serve this model: all requests for it go to the first"
                );
            }
        }
    }
}

fn shared(snapshot: &Snapshot) -> BTreeMap<Arc<str>, BTreeSet<Arc<str>>> {
    let mut pools_of: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> = BTreeMap::new();
    for pool in &snapshot.pools {
        for model in &pool.models {
            let pools = pools_of.entry(Arc::clone(&model.name)).or_default();
            pools.insert(Arc::clone(&pool.spec.name));
        }
    }
    pools_of.retain(|_, pools| pools.len() > 1);
    pools_of
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::{Cluster, Update},
        config::Config,
    };

    /// The shared models of these pools.
    fn shared_by(pools: &str) -> SharedModels {
        let config = Config::parse(pools).expect("a good configuration");
        let mut cluster = Cluster::new(hermes_core::snapshot::Epoch(1));
        cluster.fold(Update::Config(Arc::new(config)), std::time::Duration::ZERO);
        let mut models = SharedModels::default();
        models.update(&cluster.publish().expect("a snapshot"));
        models
    }

    #[test]
    fn models_of_several_pools_are_found_with_the_pool_that_gets_their_requests() {
        let models = shared_by(
            "pools:\n\
             - {name: h100, endpoints: ['http://a:1'], models: [chat, code]}\n\
             - {name: b200, endpoints: ['http://b:1'], models: [chat]}\n\
             - {name: small, endpoints: ['http://c:1'], models: [mini]}\n",
        );
        let [(model, pools)] = models.0.iter().collect::<Vec<_>>()[..] else {
            panic!("one model")
        };
        assert_eq!(&**model, "chat");
        assert_eq!(pools.first().map(|name| &**name), Some("b200"));
    }
}
