//! What all objects mean together with the file. Pure.

use std::{collections::BTreeMap, sync::Arc};

use hermes_core::{listener::Listener, route::Route};

use super::{
    catalog::{ObjectCatalog, ObjectKey},
    compile::{self, AdoptedPools, CompiledObjects},
    gateway_links::GatewayNeeds,
    gateways::{GatewayFacts, GatewayOutcome},
    status::StatusBoard,
    verdict::ObjectVerdict,
};
use crate::{
    config::{Config, PoolFragment},
    gateway_api::CompiledGateways,
};

/// What all objects mean.
#[derive(Debug, Default)]
pub(super) struct ObjectsMeaning {
    /// Pools of objects: those that objects describe, then Services that routes use.
    pub(super) pools: Vec<PoolFragment>,
    pub(super) listeners: Vec<Arc<Listener>>,
    pub(super) routes: Vec<Arc<Route>>,
    /// What Gateways need, if there may be some.
    pub(super) needs: Option<GatewayNeeds>,
    /// What became of each object.
    pub(super) verdicts: BTreeMap<ObjectKey, ObjectVerdict>,
    /// What the status of objects should be.
    pub(super) statuses: StatusBoard,
}

// === ObjectsMeaning ===

impl ObjectsMeaning {
    /// What the objects mean, in this configuration of the file.
    pub(super) fn new(catalog: &ObjectCatalog, file: &Config, facts: &GatewayFacts) -> Self {
        let config = file.gateway_api.as_deref();
        let gateways = config.map(|config| GatewayOutcome::new(catalog, file, config, facts));
        let adopted = gateways.as_ref().map(|gateways| &gateways.adopted);
        let pools = file.inference_pools.as_deref().map(|pools| {
            let none = AdoptedPools::new();
            compile::compile(catalog, pools, adopted.unwrap_or(&none))
        });
        let CompiledObjects {
            fragments,
            verdicts,
            statuses,
        } = pools.unwrap_or_default();
        let mut meaning = Self {
            pools: fragments,
            verdicts,
            statuses,
            ..Self::default()
        };
        let Some((gateways, config)) = gateways.zip(config) else {
            return meaning;
        };
        gateways.judge(catalog, &mut meaning.verdicts);
        if config.write_status {
            gateways.add_statuses(catalog, &config.controller, &mut meaning.statuses);
        }
        let services = gateways.services.iter();
        let services = services.map(|service| service.fragment(config.timeout));
        meaning.pools.extend(services);
        let CompiledGateways {
            listeners,
            routes,
            gateways,
            certificates,
            ..
        } = gateways.compiled;
        (meaning.listeners, meaning.routes) = (listeners, routes);
        meaning.needs = Some(GatewayNeeds {
            gateways,
            certificates,
        });
        meaning
    }
}

#[cfg(test)]
mod tests;
