//! Gateways of tests.

use super::{GatewayName, WantedGateway};
use crate::config::{GatewayServiceConfig, ServiceReach};

/// A Gateway of the namespace `ai`.
pub(super) fn name(name: &str) -> GatewayName {
    GatewayName {
        namespace: "ai".into(),
        name: name.into(),
    }
}

/// One with these ports.
pub(super) fn gateway(ports: &[u16]) -> WantedGateway {
    WantedGateway {
        ports: ports.iter().copied().collect(),
        ..WantedGateway::default()
    }
}

/// Services of the type `ClusterIP` for four ports of the proxies.
pub(super) fn config() -> GatewayServiceConfig {
    GatewayServiceConfig {
        namespace: None,
        reach: ServiceReach::ClusterIp,
        selector: [("app".into(), "proxy".into())].into(),
        annotations: [].into(),
        ports: 20_000..=20_003,
    }
}
