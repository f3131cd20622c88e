//! The engines and planes of one run.

use crate::fleet::{Fleet, FleetError, Scene};
use crate::simulate::Settings;
use hermes_engine_sim::EngineConfig;

/// What the pool is configured with besides its strategy: nothing may end a request that is merely
/// late, and a proxy waits for its score, since this machine does the work of a whole fleet.
const POOL: &str = "  scoreDeadline: 5s\n  timeouts: {request: 1h, firstByte: 1h, idle: 1h}\n";

/// At the top level: answers name the endpoint that gave them.
const TOP: &str = "exposeEndpoint: true\n";

/// Starts the servers of `settings`, `compress` times as fast as life, and the router in front of
/// them.
pub(super) async fn start(
    settings: &Settings,
    block_tokens: usize,
    strategy: &str,
    proxies: usize,
    compress: f64,
) -> Result<Fleet, FleetError> {
    let engine = |config: EngineConfig| EngineConfig {
        time_scale: 1.0 / compress,
        journal: 0,
        ..config
    };
    let scene = Scene {
        engines: settings
            .engines(block_tokens)
            .into_iter()
            .map(engine)
            .collect(),
        proxies,
        pool: pool(strategy),
        top: TOP.to_owned(),
        ..Scene::default()
    };
    scene.start().await
}

/// The whole configuration, to check a strategy before anything starts.
pub(super) fn yaml(strategy: &str, endpoints: &[String]) -> String {
    format!(
        "{TOP}pools:\n- name: chat\n  endpoints: [{}]\n{}",
        endpoints.join(", "),
        pool(strategy)
    )
}

fn pool(strategy: &str) -> String {
    format!("  strategy: {strategy}\n{POOL}")
}
