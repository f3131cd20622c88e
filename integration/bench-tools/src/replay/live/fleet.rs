//! The engines and planes of one run.

use std::sync::Arc;

use hermes_core::snapshot::Role;
use hermes_engine_sim::{EngineConfig, PairConfig, PairNetwork, PairProtocol, PairRole};

use crate::fleet::{Fleet, FleetError, PoolUrls, Scene};
use crate::simulate::{FleetRoles, Settings};

/// What the pool is configured with besides its strategy: nothing may end a request that is merely
/// late, and a proxy waits for its score, since this machine does the work of a whole fleet.
const POOL: &str = "  scoreDeadline: 5s\n  timeouts: {request: 1h, firstByte: 1h, idle: 1h}\n";

/// At the top level: answers name the endpoint that gave them.
const TOP: &str = "exposeEndpoint: true\n";

/// A fleet that runs, and what its pairs have in common.
pub(super) struct LiveFleet {
    pub(super) fleet: Fleet,
    pub(super) network: Arc<PairNetwork>,
}

/// Starts the servers of `settings`, `compress` times as fast as life, and the router in front of
/// them.
pub(super) async fn start(
    settings: &Settings,
    block_tokens: usize,
    strategy: &str,
    proxies: usize,
    compress: f64,
) -> Result<LiveFleet, FleetError> {
    let network = Arc::default();
    let engine = |(server, config): (usize, EngineConfig)| EngineConfig {
        time_scale: 1.0 / compress,
        journal: 0,
        pair: pair_role(settings.roles, server).map(|role| PairConfig {
            transfer_rate: settings.transfer.rate,
            ..PairConfig::new(role, PairProtocol::VllmNixl, &network)
        }),
        ..config
    };
    let configs = settings.engines(block_tokens).into_iter().enumerate();
    let scene = Scene {
        engines: configs.map(engine).collect(),
        proxies,
        pool: pool(strategy),
        top: TOP.to_owned(),
        ..Scene::default()
    };
    let fleet = scene.start().await?;
    Ok(LiveFleet { fleet, network })
}

/// What a server does for a pair.
fn pair_role(roles: FleetRoles, server: usize) -> Option<PairRole> {
    match roles.role(server) {
        Role::Prefill => Some(PairRole::Prefill),
        Role::Decode => Some(PairRole::Decode),
        Role::Both => Some(PairRole::Both),
        Role::Aggregate | Role::Leader => None,
    }
}

/// A whole configuration, to check a strategy before anything starts.
pub(super) fn yaml(strategy: &str, roles: FleetRoles) -> String {
    let mut urls = PoolUrls::default();
    for server in 0..roles.servers() {
        let url = format!("http://127.0.0.1:{}", server + 1);
        urls.of(pair_role(roles, server)).push(url);
    }
    urls.yaml(TOP, &pool(strategy))
}

fn pool(strategy: &str) -> String {
    format!("  strategy: {strategy}\n{POOL}")
}
