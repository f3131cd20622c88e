//! The door for gateways over real sockets: a gateway that a test writes, a real data plane,
//! simulated engines.

mod answers;
mod choices;
mod ends;
mod gateway;
mod pools;
mod secured;

use hermes_bench::fleet::{Fleet, Scene};
use hermes_data_plane::app::PickerOptions;
use hermes_engine_sim::EngineConfig;

use self::gateway::Gateway;
use crate::client::metric;

/// A scene whose proxies have a door for gateways.
fn with_a_door(scene: Scene) -> Scene {
    Scene {
        picker: Some(PickerOptions::plain(([127, 0, 0, 1], 0).into())),
        ..scene
    }
}

/// Engines that take their time, so that a prompt in a cache is worth going there.
fn slow(engines: usize) -> Scene {
    Scene {
        engines: vec![EngineConfig::default(); engines],
        ..Scene::of(0, "kv-aware")
    }
}

/// Starts the scene, and a gateway that asks its first proxy.
async fn start(scene: Scene) -> (Fleet, Gateway) {
    let fleet = with_a_door(scene).start().await.expect("starts");
    let door = fleet.proxies[0].bound.picker.expect("it has a door");
    (fleet, Gateway::connect(door).await)
}

/// Requests of the pool `chat` that ended so, whether their model was known when they began or not.
async fn ended(admin: &str, outcome: &str) -> f64 {
    let labels = format!(",outcome=\"{outcome}\"");
    of_models(admin, "hermes_requests_total", &labels).await
}

/// The sum of a family over the models of the pool `chat`. `labels` follow those two.
async fn of_models(admin: &str, family: &str, labels: &str) -> f64 {
    let mut sum = 0.0;
    for model in ["sim", "other"] {
        let series = format!("{family}{{pool=\"chat\",model=\"{model}\"{labels}}}");
        sum += metric(admin, &series).await;
    }
    sum
}
