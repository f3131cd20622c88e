//! What changed between two snapshots.

use std::sync::Arc;

use hermes_core::{
    delta::{PoolDelta, SnapshotDelta},
    policy::ProxySettings,
    snapshot::{Endpoint, EndpointId, Epoch, PoolSpec, Version},
};

use super::{Invalid, each, sorted};
use crate::v1;

// === Delta ===

impl From<&SnapshotDelta> for v1::Delta {
    fn from(delta: &SnapshotDelta) -> Self {
        let SnapshotDelta {
            epoch,
            from,
            to,
            settings,
            pools,
            gone,
        } = delta;
        Self {
            epoch: epoch.0,
            from_version: from.0,
            version: to.0,
            pools: pools.iter().map(v1::PoolDelta::from).collect(),
            pools_gone: gone.iter().map(ToString::to_string).collect(),
            settings: settings.as_deref().map(v1::Settings::from),
        }
    }
}

impl TryFrom<v1::Delta> for SnapshotDelta {
    type Error = Invalid;

    fn try_from(wire: v1::Delta) -> Result<Self, Invalid> {
        let v1::Delta {
            epoch,
            from_version,
            version,
            pools,
            pools_gone,
            settings,
        } = wire;
        let settings = settings
            .map(ProxySettings::try_from)
            .transpose()
            .map_err(|e| e.inside("settings"))?;
        Ok(Self {
            epoch: Epoch(epoch),
            from: Version(from_version),
            to: Version(version),
            settings: settings.map(Arc::new),
            pools: each(pools, "pools")?,
            gone: pools_gone.into_iter().map(Into::into).collect(),
        })
    }
}

// === PoolDelta ===

impl From<&PoolDelta> for v1::PoolDelta {
    fn from(delta: &PoolDelta) -> Self {
        let PoolDelta {
            name,
            spec,
            set,
            gone,
        } = delta;
        Self {
            name: name.to_string(),
            spec: spec.as_deref().map(v1::PoolSpec::from),
            endpoints: set
                .iter()
                .map(|endpoint| v1::Endpoint::from(&**endpoint))
                .collect(),
            endpoints_gone: gone.iter().map(|id| id.0).collect(),
        }
    }
}

impl TryFrom<v1::PoolDelta> for PoolDelta {
    type Error = Invalid;

    fn try_from(wire: v1::PoolDelta) -> Result<Self, Invalid> {
        let v1::PoolDelta {
            name,
            spec,
            endpoints,
            endpoints_gone,
        } = wire;
        let spec = spec
            .map(PoolSpec::try_from)
            .transpose()
            .map_err(|e| e.inside("spec"))?;
        if spec.as_ref().is_some_and(|spec| *spec.name != *name) {
            return Err(Invalid::new(
                "spec.name",
                "must be the name of the pool that changes",
            ));
        }
        sorted(&endpoints, "endpoints", |endpoint| endpoint.id)?;
        let set: Vec<Endpoint> = each(endpoints, "endpoints")?;
        sorted(&endpoints_gone, "endpoints_gone", |id| *id)?;
        Ok(Self {
            name: name.into(),
            spec: spec.map(Arc::new),
            set: set.into_iter().map(Arc::new).collect(),
            gone: endpoints_gone.into_iter().map(EndpointId).collect(),
        })
    }
}
