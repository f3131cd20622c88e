//! The endpoints of one pool, and what is known about each that proxies do not need to know.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use hermes_core::{
    address::DnsName,
    collection::Collection,
    departures::Departures,
    policy::EndpointTrust,
    snapshot::{Endpoint, EndpointId},
};

use crate::{
    cache_sources::kv_events::Publisher,
    discovery::{DiscoveredEndpoint, EventPorts},
    engines::ModelCard,
};

/// Probes after which an endpoint without models counts as one that has none to report.
const MAX_SILENT_PROBES: u8 = 3;

/// The endpoints of one pool.
#[derive(Debug, Default)]
pub(super) struct PoolMembers {
    /// By id, in ascending order.
    members: BTreeMap<EndpointId, PoolMember>,
    /// Models of endpoints that left; the next probe corrects them.
    departed: Departures<Vec<ModelCard>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct PoolMember {
    pub(super) endpoint: Arc<Endpoint>,
    /// Where it publishes KV events, as far as Kubernetes has its ports.
    event_ports: Option<EventPorts>,
    /// What it answered on `/v1/models`; `None` until it did.
    pub(super) models: Option<Vec<ModelCard>>,
    /// Probes without models, up to [`MAX_SILENT_PROBES`].
    silent_probes: u8,
}

// === PoolMembers ===

impl PoolMembers {
    /// Makes these, in this order of precedence, the endpoints of `pool`, whose certificates have
    /// the name `server_name` if there is one. Answers whether that changed anything. One that left
    /// within the last minute has the models that it had.
    ///
    /// One server has one place even when two sources found it: two would each count half of its
    /// load.
    pub(super) fn replace<'a>(
        &mut self,
        pool: &str,
        server_name: Option<&DnsName>,
        found: impl Iterator<Item = &'a DiscoveredEndpoint>,
        now: Duration,
    ) -> bool {
        self.departed.expire(now);
        let mut before = std::mem::take(&mut self.members);
        let count = before.len();
        let mut addresses = HashSet::new();
        let mut changed = false;
        for found in found.filter(|found| addresses.insert(&found.address)) {
            let endpoint = endpoint(pool, server_name, found);
            let old = before.remove(&endpoint.id);
            let event_ports = found.kv_events;
            let is_same =
                |old: &PoolMember| *old.endpoint == endpoint && old.event_ports == event_ports;
            let same = old.as_ref().is_some_and(is_same);
            changed |= !same;
            let member = match old {
                Some(old) if same => old,
                Some(old) => PoolMember {
                    endpoint: Arc::new(endpoint),
                    event_ports,
                    ..old
                },
                None => PoolMember {
                    models: self.departed.take_back(endpoint.id),
                    endpoint: Arc::new(endpoint),
                    event_ports,
                    silent_probes: 0,
                },
            };
            self.members.insert(member.endpoint.id, member);
        }
        for member in before.into_values() {
            if let Some(models) = member.models {
                self.departed.leave(member.endpoint.id, models, now);
            }
        }
        changed || self.members.len() != count
    }

    /// Stores the models that an endpoint reported. Returns whether they are others than before.
    pub(super) fn set_models(&mut self, id: EndpointId, mut models: Vec<ModelCard>) -> bool {
        // Engines list adapters in the order of a hash map, which means nothing.
        models.sort_by(|a, b| a.name.cmp(&b.name));
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        let changed = member.models.as_ref() != Some(&models);
        member.models = Some(models);
        changed
    }

    /// Counts a probe without models.
    pub(super) fn count_silent_probe(&mut self, id: EndpointId) {
        if let Some(member) = self.members.get_mut(&id) {
            member.silent_probes = MAX_SILENT_PROBES.min(member.silent_probes + 1);
        }
    }

    /// Whether every endpoint has reported its models or was probed often enough, and some endpoint
    /// has reported any.
    pub(super) fn are_models_known(&self) -> bool {
        let reported = |member: &PoolMember| member.models.is_some();
        let settled = |member: &PoolMember| {
            member.models.is_some() || member.silent_probes == MAX_SILENT_PROBES
        };
        self.members.values().all(settled)
            && (self.members.is_empty() || self.members.values().any(reported))
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = EndpointId> {
        self.members.keys().copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &PoolMember> {
        self.members.values()
    }

    /// Who may publish KV events.
    pub(super) fn publishers(&self, trust: &EndpointTrust) -> impl Iterator<Item = Publisher> {
        self.members.values().map(|member| Publisher {
            trust: member.trust(trust),
            endpoint: member.endpoint.id,
            address: member.endpoint.address.clone(),
            ports: member.event_ports,
        })
    }

    /// As a snapshot has them.
    pub(super) fn endpoints(&self) -> Collection<Endpoint> {
        self.members
            .values()
            .map(|member| Arc::clone(&member.endpoint))
            .collect()
    }
}

// === PoolMember ===

impl PoolMember {
    /// Who may sign its certificate, in a pool with this trust. An endpoint without TLS shows none:
    /// it is the same endpoint after a rotation of the pool's authorities.
    pub(super) fn trust(&self, pool: &EndpointTrust) -> EndpointTrust {
        if self.endpoint.address.is_secured() {
            pool.clone()
        } else {
            EndpointTrust::System
        }
    }
}

fn endpoint(pool: &str, server_name: Option<&DnsName>, found: &DiscoveredEndpoint) -> Endpoint {
    let DiscoveredEndpoint {
        address,
        uid,
        name,
        role,
        group,
        pairing,
        kv_events: _,
    } = found;
    Endpoint {
        id: EndpointId::of(pool, address, uid),
        address: match server_name {
            Some(name) if address.is_secured() => address.clone().with_server_name(name.clone()),
            _ => address.clone(),
        },
        name: name.as_str().into(),
        role: *role,
        group: group.as_deref().map(Into::into),
        pairing: pairing.clone(),
    }
}
