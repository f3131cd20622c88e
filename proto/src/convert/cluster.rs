//! The values of a snapshot: specifications of pools, endpoints and models.

use std::{num::NonZeroU16, sync::Arc};

use hermes_core::{
    address::ServerAddress,
    inference_pool::{AskedPicker, ModelPriority, Objective},
    snapshot::{
        Endpoint, EndpointId, EndpointLocation, EngineRank, Model, ModelHolders, PairingFacts,
        PendingDiscovery, PoolSpec, Role,
    },
};

use super::{Invalid, each, required, sorted};
use crate::v1::{self, model::Holders};

// === PoolSpec ===

impl From<&PoolSpec> for v1::PoolSpec {
    fn from(spec: &PoolSpec) -> Self {
        let PoolSpec {
            name: _,
            policy,
            pending,
            pickers,
            rewrites,
            priorities,
            objectives,
            asked_picker,
            http2,
        } = spec;
        Self {
            policy: Some(v1::Policy::from(policy)),
            pending: pending.any().then_some(v1::PendingDiscovery {
                endpoints: pending.endpoints,
                models: pending.models,
            }),
            pickers: pickers.iter().map(v1::PickerReference::from).collect(),
            rewrites: rewrites.iter().map(v1::ModelRewrite::from).collect(),
            priorities: priorities.iter().map(v1::ModelPriority::from).collect(),
            objectives: objectives.iter().map(v1::Objective::from).collect(),
            asked_picker: asked_picker.as_ref().map(v1::AskedPicker::from),
            http2: *http2,
        }
    }
}

/// The specification of the pool `name`.
pub(super) fn pool_spec(name: Arc<str>, wire: v1::PoolSpec) -> Result<PoolSpec, Invalid> {
    let v1::PoolSpec {
        policy,
        pending,
        pickers,
        rewrites,
        priorities,
        objectives,
        asked_picker,
        http2,
    } = wire;
    sorted(&priorities, "priorities", |one| one.model.clone())?;
    sorted(&objectives, "objectives", |objective| {
        objective.name.clone()
    })?;
    let policy = required(policy, "policy")?
        .try_into()
        .map_err(|e: Invalid| e.inside("policy"))?;
    let asked_picker = asked_picker.map(AskedPicker::try_from).transpose();
    Ok(PoolSpec {
        name,
        policy,
        pending: pending.map_or_else(PendingDiscovery::default, |pending| PendingDiscovery {
            endpoints: pending.endpoints,
            models: pending.models,
        }),
        pickers: each(pickers, "pickers")?.into(),
        rewrites: each(rewrites, "rewrites")?.into(),
        priorities: priorities.into_iter().map(ModelPriority::from).collect(),
        objectives: objectives.into_iter().map(Objective::from).collect(),
        asked_picker: asked_picker.map_err(|e| e.inside("asked_picker"))?,
        http2,
    })
}

// === Endpoint ===

impl From<&Endpoint> for v1::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        let Endpoint {
            id,
            address,
            name,
            role,
            group,
            pairing:
                PairingFacts {
                    bootstrap_port,
                    version,
                    ranks,
                    location: EndpointLocation { node, zone },
                },
        } = endpoint;
        let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        let wire_role = match role {
            Role::Aggregate | Role::Both => v1::Role::Aggregate,
            Role::Prefill | Role::Leader => v1::Role::Prefill,
            Role::Decode => v1::Role::Decode,
        };
        Self {
            id: id.0,
            url: address.to_string(),
            name: name.to_string(),
            role: wire_role.into(),
            group: text(group),
            address: Some(v1::ServerAddress::from(address)),
            leads_group: *role == Role::Leader,
            bootstrap_port: bootstrap_port.map(|port| port.get().into()),
            version: text(version),
            ranks: ranks
                .iter()
                .flat_map(|ranks| &**ranks)
                .map(v1::EngineRank::from)
                .collect(),
            node: text(node),
            zone: text(zone),
            does_both: *role == Role::Both,
        }
    }
}

impl From<&EngineRank> for v1::EngineRank {
    fn from(EngineRank { rank, engine_id }: &EngineRank) -> Self {
        Self {
            rank: *rank,
            engine_id: engine_id.to_string(),
        }
    }
}

/// The ranks of an endpoint; `None` if there are none.
fn engine_ranks(wire: Vec<v1::EngineRank>) -> Result<Option<Arc<[EngineRank]>>, Invalid> {
    sorted(&wire, "ranks", |rank| rank.rank)?;
    let ranks = wire
        .into_iter()
        .map(|v1::EngineRank { rank, engine_id }| EngineRank {
            rank,
            engine_id: engine_id.into(),
        });
    let ranks: Arc<[EngineRank]> = ranks.collect();
    Ok(Some(ranks).filter(|ranks| !ranks.is_empty()))
}

impl TryFrom<v1::Endpoint> for Endpoint {
    type Error = Invalid;

    fn try_from(wire: v1::Endpoint) -> Result<Self, Invalid> {
        let v1::Endpoint {
            id,
            url,
            name,
            role,
            group,
            address,
            leads_group,
            bootstrap_port,
            version,
            ranks,
            node,
            zone,
            does_both,
        } = wire;
        let address = match address {
            Some(address) => ServerAddress::try_from(address).map_err(|e| e.inside("address"))?,
            None => {
                ServerAddress::parse(&url).map_err(|error| Invalid::new("url", error.expected()))?
            }
        };
        let role = match v1::Role::try_from(role) {
            Ok(_) if leads_group => Role::Leader,
            Ok(v1::Role::Aggregate) if does_both => Role::Both,
            Ok(v1::Role::Aggregate) => Role::Aggregate,
            Ok(v1::Role::Prefill) => Role::Prefill,
            Ok(v1::Role::Decode) => Role::Decode,
            Err(_) => return Err(Invalid::new("role", "is not one that this release knows")),
        };
        Ok(Self {
            id: EndpointId(id),
            address,
            name: name.into(),
            role,
            group: group.map(Into::into),
            pairing: PairingFacts {
                bootstrap_port: bootstrap_port
                    .map(|port| port_number(port, "bootstrap_port"))
                    .transpose()?,
                version: version.map(Into::into),
                ranks: engine_ranks(ranks)?,
                location: EndpointLocation {
                    node: node.map(Into::into),
                    zone: zone.map(Into::into),
                },
            },
        })
    }
}

/// The port in the field `name`.
pub(super) fn port_number(wire: u32, name: &str) -> Result<NonZeroU16, Invalid> {
    let port = u16::try_from(wire).ok().and_then(NonZeroU16::new);
    port.ok_or_else(|| Invalid::new(name, "must be a port, 1 to 65535"))
}

// === Model ===

impl From<&Model> for v1::Model {
    fn from(model: &Model) -> Self {
        let Model {
            name,
            parent,
            max_model_len,
            holders,
        } = model;
        let listed = |ids: &[EndpointId]| v1::Holders {
            endpoints: ids.iter().map(|id| id.0).collect(),
        };
        let holders = match holders {
            ModelHolders::All => None,
            ModelHolders::Some(ids) => Some(Holders::Only(listed(ids))),
            ModelHolders::Except(ids) => Some(Holders::Except(listed(ids))),
        };
        Self {
            name: name.to_string(),
            parent: parent.as_deref().map(str::to_owned),
            max_model_len: *max_model_len,
            holders,
        }
    }
}

impl TryFrom<v1::Model> for Model {
    type Error = Invalid;

    fn try_from(wire: v1::Model) -> Result<Self, Invalid> {
        let v1::Model {
            name,
            parent,
            max_model_len,
            holders,
        } = wire;
        if name.is_empty() {
            return Err(Invalid::new("name", "is empty; a model needs a name"));
        }
        let holders = match holders {
            None => ModelHolders::All,
            Some(Holders::Only(listed)) => ModelHolders::Some(ids(listed, "only")?),
            Some(Holders::Except(listed)) => ModelHolders::Except(ids(listed, "except")?),
        };
        Ok(Self {
            name: name.into(),
            parent: parent.map(Into::into),
            max_model_len,
            holders,
        })
    }
}

/// The ids in the field `name`.
fn ids(wire: v1::Holders, name: &str) -> Result<Arc<[EndpointId]>, Invalid> {
    let v1::Holders { endpoints } = wire;
    sorted(&endpoints, "endpoints", |id| *id).map_err(|e| e.inside(name))?;
    Ok(endpoints.into_iter().map(EndpointId).collect())
}
