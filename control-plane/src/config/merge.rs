//! Merges the fragments of a configuration.
//!
//! The order of the fragments is their precedence: the first pool of a name is used. A later one of
//! the same name is an error at its origin: in a file it refuses the file, and an object is left out
//! by itself.

use std::{collections::BTreeMap, sync::Arc};

use hermes_core::address::ServerAddress;

use super::{
    MAX_ENDPOINTS, MAX_POOLS,
    diagnostics::Diagnostics,
    origin::ConfigOrigin,
    pool::{PoolConfig, PoolFragment},
    source::EndpointSource,
};

/// A fragment that is left out of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedFragment {
    /// Where it is configured.
    pub origin: ConfigOrigin,
    /// Why it is left out, and what to do.
    pub reason: String,
}

/// The pools of all fragments, sorted by name, each name once.
pub(super) fn merge(fragments: Vec<PoolFragment>, diagnostics: &Diagnostics) -> Vec<PoolConfig> {
    bound_endpoints(&fragments, diagnostics);
    warn_shared_endpoints(&fragments, diagnostics);
    warn_shared_models(&fragments, diagnostics);
    let mut merged: BTreeMap<Arc<str>, PoolFragment> = BTreeMap::new();
    for fragment in fragments {
        let name = Arc::clone(&fragment.pool.name);
        let Some(first) = merged.get(&name) else {
            merged.insert(name, fragment);
            continue;
        };
        diagnostics.error(
            &fragment.origin.to_string(),
            format!("the name `{name}` is used by {}", first.origin),
            "give every pool its own name (the block `app` becomes the pool `default`)",
        );
    }
    merged.into_values().map(|fragment| fragment.pool).collect()
}

/// These pools and those of the fragments, sorted by name, each name once; and the fragments for
/// which there is no room, or no name.
pub(super) fn add(
    pools: Vec<PoolConfig>,
    fragments: Vec<PoolFragment>,
) -> (Vec<PoolConfig>, Vec<RefusedFragment>) {
    let named = |pool: PoolConfig| (Arc::clone(&pool.name), pool);
    let mut merged: BTreeMap<Arc<str>, PoolConfig> = pools.into_iter().map(named).collect();
    let mut refused = Vec::new();
    for PoolFragment { origin, pool } in fragments {
        let reason = if merged.contains_key(&pool.name) {
            format!("the name `{}` is used by another pool", pool.name)
        } else if merged.len() >= MAX_POOLS {
            format!("there are {MAX_POOLS} pools, which is the limit")
        } else {
            merged.insert(Arc::clone(&pool.name), pool);
            continue;
        };
        refused.push(RefusedFragment { origin, reason });
    }
    (merged.into_values().collect(), refused)
}

fn bound_endpoints(fragments: &[PoolFragment], diagnostics: &Diagnostics) {
    let sources = fragments.iter().flat_map(|fragment| &fragment.pool.sources);
    let total = sources.flat_map(EndpointSource::static_addresses).count();
    if total > MAX_ENDPOINTS {
        let fix =
            format!("the limit is {MAX_ENDPOINTS} over all pools; or discover them in Kubernetes");
        diagnostics.error("pools", format!("{total} static endpoints"), fix);
    }
}

/// Two pools may share a server, but neither accounts for the load that the other sends.
fn warn_shared_endpoints(fragments: &[PoolFragment], diagnostics: &Diagnostics) {
    let mut owners: BTreeMap<&ServerAddress, &Arc<str>> = BTreeMap::new();
    for PoolFragment { origin, pool } in fragments {
        for address in pool
            .sources
            .iter()
            .flat_map(EndpointSource::static_addresses)
        {
            let owner = *owners.entry(address).or_insert(&pool.name);
            if owner != &pool.name {
                diagnostics.warn(format!(
                    "{origin}.endpoints: {address} is in the pool `{owner}` too; each counts only its own load"
                ));
            }
        }
    }
}

/// Requests for a model go to the first pool by name that serves it.
fn warn_shared_models(fragments: &[PoolFragment], diagnostics: &Diagnostics) {
    let mut by_name: Vec<&PoolFragment> = fragments.iter().collect();
    by_name.sort_by(|one, other| one.pool.name.cmp(&other.pool.name));
    let mut owners: BTreeMap<&Arc<str>, &Arc<str>> = BTreeMap::new();
    for PoolFragment { origin, pool } in by_name {
        let rewritten = pool.rewrites.iter().filter_map(|one| one.model.as_ref());
        let rewritten = rewritten.map(|model| ("rewrites", model));
        let own = pool.models.iter().map(|model| ("models", model));
        for (key, model) in own.chain(rewritten) {
            let owner = *owners.entry(model).or_insert(&pool.name);
            if owner != &pool.name {
                diagnostics.warn(format!(
                    "{origin}.{key}: all requests for `{model}` go to the pool `{owner}`, the first by name that serves it"
                ));
            }
        }
    }
}
