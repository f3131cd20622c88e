//! Pools by the picker that a gateway asks: several pools that serve one model differ in the Service
//! by which gateways reach their picker, or share one.

use std::{net::IpAddr, sync::Arc};

use hermes_core::{inference_pool::PickerReference, nearest::nearest};
use smallvec::SmallVec;

use super::{RoutingPool, RoutingView, models};
use crate::request::local_reply::{LocalReply, echo};

/// How a gateway reaches a picker: a Service, by as much of its name as the gateway states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PickerAuthority {
    service: Box<str>,
    namespace: Option<Box<str>>,
    port: Option<u16>,
}

impl PickerAuthority {
    /// Reads `service`, `service.namespace` or `service.namespace.svc…`, each with or without a
    /// port. `None` for an address.
    pub(crate) fn parse(authority: &str) -> Option<Self> {
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (authority, None),
        };
        if host.parse::<IpAddr>().is_ok() || host.starts_with('[') {
            return None;
        }
        let mut labels = host.split('.').map(str::to_ascii_lowercase);
        Some(Self {
            service: labels.next().filter(|label| !label.is_empty())?.into(),
            namespace: labels.next().map(Into::into),
            port,
        })
    }

    fn is(&self, picker: &PickerReference) -> bool {
        let namespace = self.namespace.as_deref();
        *self.service == *picker.service
            && namespace.is_none_or(|namespace| *namespace == *picker.namespace)
            && self.port.is_none_or(|port| port == picker.port)
    }
}

impl RoutingView {
    /// The pool that serves a request for this model, among those with this picker. If no pool has
    /// it, or no picker was asked, among all.
    pub(crate) fn route_of(
        &self,
        picker: Option<&PickerAuthority>,
        model: Option<&str>,
    ) -> Result<&Arc<RoutingPool>, LocalReply> {
        let Some(picker) = picker else {
            return self.route(model);
        };
        let has_it = |pool: &&Arc<RoutingPool>| {
            let pickers = &pool.pool.spec.pickers;
            pickers.iter().any(|reference| picker.is(reference))
        };
        let pools: SmallVec<[&Arc<RoutingPool>; 4]> = self.pools.iter().filter(has_it).collect();
        if pools.is_empty() {
            return self.route(model);
        }
        among(&pools, model)
    }
}

/// As [`RoutingView::route`], among some pools.
fn among<'a>(
    pools: &[&'a Arc<RoutingPool>],
    model: Option<&str>,
) -> Result<&'a Arc<RoutingPool>, LocalReply> {
    let names = || {
        let names = pools.iter().flat_map(|pool| models::names(&pool.pool));
        names.map(|name| &**name)
    };
    let Some(model) = model else {
        return match pools {
            [only] => Ok(only),
            _ => only(pools, RoutingPool::rewrites_any_model)
                .ok_or_else(|| LocalReply::NoModel(names().take(20).map(str::to_owned).collect())),
        };
    };
    let serves = |pool: &&&Arc<RoutingPool>| models::names(&pool.pool).any(|name| **name == *model);
    if let Some(pool) = pools.iter().find(serves) {
        return Ok(pool);
    }
    only(pools, RoutingPool::accepts_any_model).ok_or_else(|| {
        let nearest = nearest(model, names());
        LocalReply::UnknownModel {
            model: echo(model),
            nearest: nearest.into_iter().map(str::to_owned).collect(),
        }
    })
}

/// The pool of which this holds, if it is one.
fn only<'a>(
    pools: &[&'a Arc<RoutingPool>],
    holds: impl Fn(&RoutingPool) -> bool,
) -> Option<&'a Arc<RoutingPool>> {
    let mut pools = pools.iter().filter(|pool| holds(pool));
    pools.next().filter(|_| pools.next().is_none()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(authority: &str) -> bool {
        let picker = PickerReference {
            namespace: "serving".into(),
            service: "qwen-epp".into(),
            port: 9002,
        };
        PickerAuthority::parse(authority).is_some_and(|authority| authority.is(&picker))
    }

    #[test]
    fn a_picker_is_named_by_as_much_of_its_service_as_the_gateway_states() {
        for authority in [
            "qwen-epp",
            "qwen-epp:9002",
            "qwen-epp.serving",
            "qwen-epp.serving:9002",
            "Qwen-Epp.serving.svc:9002",
            "qwen-epp.serving.svc.cluster.local:9002",
        ] {
            assert!(is(authority), "{authority}");
        }
        for authority in [
            "qwen",
            "qwen-epp:9003",
            "qwen-epp.other",
            "qwen-epp:many",
            "10.0.0.1:9002",
            "[fd00::1]:9002",
            "",
            ":9002",
        ] {
            assert!(!is(authority), "{authority}");
        }
    }
}
