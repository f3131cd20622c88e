//! Snapshots, their pools, endpoints and models.

use std::sync::Arc;

use hermes_core::{
    policy::ProxySettings,
    snapshot::{
        Endpoint, EndpointId, Epoch, Model, ModelHolders, PendingDiscovery, Pool, PoolSpec, Role,
        Snapshot, Version,
    },
};

use super::{Invalid, each, required, sorted};
use crate::v1;

/// A whole snapshot as the replica named `replica` sends it.
#[must_use]
pub fn snapshot_to_wire(snapshot: &Snapshot, replica: &str) -> v1::Snapshot {
    let Snapshot {
        epoch,
        version,
        pools,
        settings,
    } = snapshot;
    v1::Snapshot {
        epoch: epoch.0,
        version: version.0,
        replica: replica.to_owned(),
        pools: pools.iter().map(|pool| v1::Pool::from(&**pool)).collect(),
        settings: Some(v1::Settings::from(&**settings)),
    }
}

// === Snapshot ===

impl TryFrom<v1::Snapshot> for Snapshot {
    type Error = Invalid;

    fn try_from(wire: v1::Snapshot) -> Result<Self, Invalid> {
        let v1::Snapshot {
            epoch,
            version,
            replica: _,
            pools,
            settings,
        } = wire;
        let pools: Vec<Arc<Pool>> = each::<_, Pool>(pools, "pools")?
            .into_iter()
            .map(Arc::new)
            .collect();
        sorted(&pools, "pools", |pool| Arc::clone(&pool.spec.name))?;
        let settings = ProxySettings::try_from(required(settings, "settings")?)
            .map_err(|e| e.inside("settings"))?;
        Ok(Self {
            epoch: Epoch(epoch),
            version: Version(version),
            pools,
            settings: Arc::new(settings),
        })
    }
}

// === Pool ===

impl From<&Pool> for v1::Pool {
    fn from(pool: &Pool) -> Self {
        let Pool { spec, endpoints } = pool;
        Self {
            spec: Some(v1::PoolSpec::from(&**spec)),
            endpoints: endpoints
                .iter()
                .map(|endpoint| v1::Endpoint::from(&**endpoint))
                .collect(),
        }
    }
}

impl TryFrom<v1::Pool> for Pool {
    type Error = Invalid;

    fn try_from(wire: v1::Pool) -> Result<Self, Invalid> {
        let v1::Pool { spec, endpoints } = wire;
        let spec = PoolSpec::try_from(required(spec, "spec")?).map_err(|e| e.inside("spec"))?;
        let endpoints: Vec<Arc<Endpoint>> = each::<_, Endpoint>(endpoints, "endpoints")?
            .into_iter()
            .map(Arc::new)
            .collect();
        sorted(&endpoints, "endpoints", |endpoint| endpoint.id)?;
        Ok(Self {
            spec: Arc::new(spec),
            endpoints,
        })
    }
}

// === PoolSpec ===

impl From<&PoolSpec> for v1::PoolSpec {
    fn from(spec: &PoolSpec) -> Self {
        let PoolSpec {
            name,
            models,
            policy,
            pending,
        } = spec;
        Self {
            name: name.to_string(),
            models: models.iter().map(v1::Model::from).collect(),
            policy: Some(v1::Policy::from(policy)),
            pending: pending.any().then_some(v1::PendingDiscovery {
                endpoints: pending.endpoints,
                models: pending.models,
            }),
        }
    }
}

impl TryFrom<v1::PoolSpec> for PoolSpec {
    type Error = Invalid;

    fn try_from(wire: v1::PoolSpec) -> Result<Self, Invalid> {
        let v1::PoolSpec {
            name,
            models,
            policy,
            pending,
        } = wire;
        if name.is_empty() {
            return Err(Invalid::new("name", "is empty; a pool needs a name"));
        }
        let models: Vec<Model> = each(models, "models")?;
        sorted(&models, "models", |model| Arc::clone(&model.name))?;
        let policy = required(policy, "policy")?
            .try_into()
            .map_err(|e: Invalid| e.inside("policy"))?;
        Ok(Self {
            name: name.into(),
            models,
            policy,
            pending: pending.map_or_else(PendingDiscovery::default, |pending| PendingDiscovery {
                endpoints: pending.endpoints,
                models: pending.models,
            }),
        })
    }
}

// === Endpoint ===

impl From<&Endpoint> for v1::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        let Endpoint {
            id,
            url,
            name,
            role,
            group,
        } = endpoint;
        let role = match role {
            Role::Aggregate => v1::Role::Aggregate,
            Role::Prefill => v1::Role::Prefill,
            Role::Decode => v1::Role::Decode,
        };
        Self {
            id: id.0,
            url: url.to_string(),
            name: name.to_string(),
            role: role.into(),
            group: group.as_deref().map(str::to_owned),
        }
    }
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
        } = wire;
        let authority = url.strip_prefix("http://").unwrap_or_default();
        if authority.is_empty() || authority.contains('/') {
            return Err(Invalid::new(
                "url",
                "must be http://host:port without a path",
            ));
        }
        let role = match v1::Role::try_from(role) {
            Ok(v1::Role::Aggregate) => Role::Aggregate,
            Ok(v1::Role::Prefill) => Role::Prefill,
            Ok(v1::Role::Decode) => Role::Decode,
            Err(_) => return Err(Invalid::new("role", "is not one that this release knows")),
        };
        Ok(Self {
            id: EndpointId(id),
            url: url.into(),
            name: name.into(),
            role,
            group: group.map(Into::into),
        })
    }
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
        let holders = match holders {
            ModelHolders::All => None,
            ModelHolders::Some(ids) => Some(v1::Holders {
                endpoints: ids.iter().map(|id| id.0).collect(),
            }),
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
            Some(v1::Holders { endpoints }) => {
                sorted(&endpoints, "holders.endpoints", |id| *id)?;
                ModelHolders::Some(endpoints.into_iter().map(EndpointId).collect())
            }
        };
        Ok(Self {
            name: name.into(),
            parent: parent.map(Into::into),
            max_model_len,
            holders,
        })
    }
}
