//! An address for each Gateway: a Service that leads its ports to ports of the proxies.
//!
//! ```text
//!   Gateways ──WantedGateways──▶ plan (pure) ──Services that differ──▶ API server
//!                                  ▲  │                                    │
//!                        Services ─┘  └──GatewayServices──▶ listeners      │
//!                           ▲                                              │
//!                           └──────────────── watch ◀──────────────────────┘
//! ```
//!
//! All proxies serve all Gateways, and several Gateways have a listener on port 80. Each pair of a
//! Gateway and a port of it has a port of the proxies of its own. The Service of the Gateway has the
//! Gateway's port as `port` and the proxies' port as `targetPort`, and selects the proxies' pods.
//!
//! Invariants:
//! * no two pairs share a port of the proxies;
//! * what a Service has is kept: neither a restart nor another Gateway moves a port;
//! * while no Gateways are wanted nothing is watched, and no right is needed.

mod assignment;
mod changes;
mod feed;
#[cfg(test)]
mod fixture;
mod manifest;
mod metrics;
mod observed;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

pub use self::{
    assignment::{AssignedPorts, GatewayPort, assign},
    feed::GatewayPortFeed,
    metrics::GatewayPortMetrics,
};
use crate::config::GatewayServiceConfig;

/// Who has set the fields of Services.
const FIELD_MANAGER: &str = "hermes";

/// What a Gateway is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name there.
    pub name: Arc<str>,
}

/// All Gateways that need ports; `None` before all were listed, and while there are none to serve.
pub type NewestWantedGateways = Option<Arc<WantedGateways>>;

/// Gateways that need ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedGateways {
    /// Which controller they belong to, such as `hermes.ai/gateway`. Services of other controllers
    /// are left alone.
    pub controller: Arc<str>,
    /// How their Services are made.
    pub service: GatewayServiceConfig,
    /// Each Gateway.
    pub gateways: BTreeMap<GatewayName, WantedGateway>,
}

/// A Gateway that needs ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedGateway {
    /// When it was made, in seconds of Unix time: of two that want the same port of the proxies, the
    /// older one gets it.
    pub created: u64,
    /// The ports of its listeners, all of TCP.
    pub ports: BTreeSet<u16>,
    /// Labels of its infrastructure (`spec.infrastructure.labels`).
    pub labels: BTreeMap<String, String>,
    /// Annotations of its infrastructure (`spec.infrastructure.annotations`).
    pub annotations: BTreeMap<String, String>,
}

/// What became of each Gateway that is wanted; `None` before Services were listed.
pub type GatewayServices = Option<Arc<BTreeMap<GatewayName, GatewayService>>>;

/// The ports and the addresses of a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayService {
    /// The proxies' port for each port of the Gateway. One is absent until a Service has it.
    pub ports: BTreeMap<u16, u16>,
    /// Where clients reach it.
    pub addresses: Vec<GatewayAddress>,
    /// Why a port or all addresses are absent, if one or all are.
    pub problem: Option<GatewayProblem>,
}

/// An address for clients.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GatewayAddress {
    /// An IP address.
    Ip(Arc<str>),
    /// A DNS name.
    Hostname(Arc<str>),
}

/// Why a Gateway has no address, or no port of the proxies for one of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayProblem {
    /// Every port of the range is assigned.
    NoPort,
    /// There is a Service of its Service's name that is not this controller's.
    ForeignService(Arc<str>),
    /// The Service was not accepted by the API server, and why.
    NotWritten(Arc<str>),
    /// Services cannot be listed, and why: which ports they have is not known.
    NotListed(Arc<str>),
    /// The Service is not there yet, or has no address or port yet.
    Pending,
}

// === GatewayName ===

impl fmt::Display for GatewayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name } = self;
        write!(f, "{namespace}/{name}")
    }
}

// === GatewayProblem ===

impl fmt::Display for GatewayProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPort => f.write_str(
                "no port of the proxies is left: raise `gatewayApi.service.portRange`, or remove Gateways",
            ),
            Self::ForeignService(service) => write!(
                f,
                "the Service {service} exists and is not this controller's: remove or rename it"
            ),
            Self::NotWritten(reason) => write!(f, "its Service cannot be written: {reason}"),
            Self::NotListed(reason) => write!(f, "Services cannot be listed: {reason}"),
            Self::Pending => f.write_str("its Service has not all of its addresses and ports yet"),
        }
    }
}
