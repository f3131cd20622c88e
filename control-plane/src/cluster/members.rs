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
    policy::{DisaggregationPolicy, EndpointTrust},
    snapshot::{Endpoint, EndpointId, PairingFacts, Role},
};

use crate::{
    cache_sources::kv_events::Publisher,
    discovery::{DiscoveredEndpoint, EventPorts},
    engines::{ModelCard, PairingQuestion, PairingStatement},
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
    /// Its role, if anything but its engine names it.
    named_role: Option<Role>,
    /// What its partners need to know, as far as its engine need not be asked.
    named_pairing: PairingFacts,
    /// What its engine states of its part in pairs; `None` until it was asked.
    stated: Option<PairingStatement>,
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
            let old = before.remove(&EndpointId::of(pool, &found.address, &found.uid));
            let stated = old.as_ref().and_then(|old| old.stated.clone());
            let endpoint = endpoint(pool, server_name, found, stated.as_ref());
            let event_ports = found.kv_events;
            let is_same = |old: &PoolMember| {
                *old.endpoint == endpoint
                    && old.event_ports == event_ports
                    && old.named_role == found.role
            };
            let same = old.as_ref().is_some_and(is_same);
            changed |= !same;
            let member = match old {
                Some(old) if same => old,
                Some(old) => PoolMember {
                    endpoint: Arc::new(endpoint),
                    named_role: found.role,
                    named_pairing: found.pairing.clone(),
                    event_ports,
                    ..old
                },
                None => PoolMember {
                    models: self.departed.take_back(endpoint.id),
                    endpoint: Arc::new(endpoint),
                    named_role: found.role,
                    named_pairing: found.pairing.clone(),
                    stated,
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

    /// Stores what an engine states of its part in pairs. Returns whether that changes anything.
    pub(super) fn state(&mut self, id: EndpointId, stated: PairingStatement) -> bool {
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        let endpoint = Endpoint {
            role: role(member.named_role, Some(&stated)),
            pairing: pairing(&member.named_pairing, Some(&stated)),
            ..(*member.endpoint).clone()
        };
        let was_asked = member.stated.replace(stated).is_some();
        let changed = *member.endpoint != endpoint;
        if changed {
            member.endpoint = Arc::new(endpoint);
        }
        changed || !was_asked
    }

    /// Counts a probe without models. Returns whether the endpoint waited for a role until then.
    pub(super) fn count_silent_probe(&mut self, id: EndpointId) -> bool {
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        let awaited = member.awaits_role();
        member.silent_probes = MAX_SILENT_PROBES.min(member.silent_probes + 1);
        awaited && !member.awaits_role()
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
            name: Arc::clone(&member.endpoint.name),
            address: member.endpoint.address.clone(),
            ports: member.event_ports,
        })
    }

    /// As a snapshot has them. `asks`: engines are asked for their roles, and an endpoint whose
    /// role nothing names is left out until its engine was.
    pub(super) fn endpoints(&self, asks: bool) -> Collection<Endpoint> {
        self.members
            .values()
            .filter(|member| !asks || !member.awaits_role())
            .map(|member| Arc::clone(&member.endpoint))
            .collect()
    }

    /// Whether any endpoint has no role yet, where engines are asked for theirs.
    pub(super) fn await_roles(&self) -> bool {
        self.members.values().any(PoolMember::awaits_role)
    }
}

// === PoolMember ===

impl PoolMember {
    /// Whether its engine may still state its role. One that cannot be asked is taken for one that
    /// serves whole requests.
    fn awaits_role(&self) -> bool {
        self.named_role.is_none() && self.stated.is_none() && self.silent_probes < MAX_SILENT_PROBES
    }

    /// What its engine is asked for pairs.
    pub(super) fn question(&self, rules: &DisaggregationPolicy) -> Option<PairingQuestion> {
        PairingQuestion::of(rules, self.named_role, self.named_pairing.bootstrap_port)
    }

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

fn endpoint(
    pool: &str,
    server_name: Option<&DnsName>,
    found: &DiscoveredEndpoint,
    stated: Option<&PairingStatement>,
) -> Endpoint {
    let DiscoveredEndpoint {
        address,
        uid,
        name,
        role: named_role,
        group,
        pairing: named_pairing,
        kv_events: _,
    } = found;
    Endpoint {
        id: EndpointId::of(pool, address, uid),
        address: match server_name {
            Some(name) if address.is_secured() => address.clone().with_server_name(name.clone()),
            _ => address.clone(),
        },
        name: name.as_str().into(),
        role: role(*named_role, stated),
        group: group.as_deref().map(Into::into),
        pairing: pairing(named_pairing, stated),
    }
}

/// What is named takes precedence over what the engine states.
fn role(named: Option<Role>, stated: Option<&PairingStatement>) -> Role {
    let stated = stated.and_then(|stated| stated.role);
    named.or(stated).unwrap_or_default()
}

fn pairing(named: &PairingFacts, stated: Option<&PairingStatement>) -> PairingFacts {
    let Some(stated) = stated else {
        return named.clone();
    };
    PairingFacts {
        bootstrap_port: named.bootstrap_port.or(stated.bootstrap_port),
        ranks: stated.ranks.clone(),
        ..named.clone()
    }
}
