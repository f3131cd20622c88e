//! A large fleet: 1,000 endpoints that are scraped, 64 proxies that follow the snapshot and the
//! load, and 1,000 requests that wait for the one endpoint with their adapter.

mod followers;

use std::{net::SocketAddr, time::Duration};

use hermes_control_plane::config::Config;
use hermes_engine_sim::{Engine, EngineConfig, EngineHandle};
use tokio::runtime::Runtime;

use self::followers::Followers;
use crate::{
    CLIENT, SERVER,
    callers::{self, Prompts},
    figures::{Figures, cpu},
    replica::{ReplicaUnderLoad, address, worker},
};

const ENDPOINTS: usize = 1_000;
const PROXIES: u64 = 64;
const WAITING: u64 = 1_000;
/// More of them are served faster, and wait longer.
const CALLERS: [usize; 3] = [8, 24, 64];
/// The model of one endpoint alone.
const ADAPTER: &str = "rare";
/// How long CPU is measured without questions.
const QUIET: Duration = Duration::from_secs(10);
/// Models and loads of all endpoints are known after it.
const SETTLE: Duration = Duration::from_secs(3);
/// Blocks of a prompt of the callers.
const HASHES: usize = 16;

/// What the fleet showed.
pub(crate) struct FleetFigures {
    /// Cores of the replica with no proxy.
    pub(crate) scraping: f64,
    /// Cores of the replica with all proxies, which have no requests.
    pub(crate) streaming: f64,
    /// Cores of the replica with all proxies, which send a request a second to each endpoint.
    pub(crate) changing: f64,
    /// Answers to each number of callers while the others wait.
    pub(crate) scoring: Vec<(usize, Figures)>,
}

/// Engines, of which the first alone has the adapter.
struct Engines {
    rare: EngineHandle,
    common: EngineHandle,
}

/// Measures all four on one replica.
pub(crate) fn measure() -> FleetFigures {
    let (server, client, engines) = (worker(SERVER), worker(CLIENT), worker("engines"));
    let fleet = engines.block_on(Engines::start());
    let replica = ReplicaUnderLoad::with(&server, fleet.config());
    let cores = || cores(&client);
    let scraping = cores();
    let mut followers = Followers::start(&client, replica.grpc(), PROXIES);
    let streaming = cores();
    followers.send_requests(&client, ENDPOINTS as u64);
    let changing = cores();
    followers.end_requests();
    let _waiting = client.block_on(followers::wait_for(replica.grpc(), ADAPTER, WAITING));
    let scoring = CALLERS.map(|callers| {
        let drive = callers::drive(replica.grpc(), callers, Prompts::unseen(HASHES));
        let figures = client.block_on(client.spawn(drive));
        (callers, figures.expect("no panic"))
    });
    FleetFigures {
        scraping,
        streaming,
        changing,
        scoring: scoring.into(),
    }
}

/// Cores that the replica's thread takes, once it has settled.
fn cores(client: &Runtime) -> f64 {
    let pause = |time| client.block_on(async move { tokio::time::sleep(time).await });
    pause(SETTLE);
    let before = cpu(SERVER);
    pause(QUIET);
    (cpu(SERVER) - before).as_secs_f64() / QUIET.as_secs_f64()
}

// === Engines ===

impl Engines {
    async fn start() -> Self {
        let config = EngineConfig {
            model: "m".into(),
            time_scale: 0.0,
            ..EngineConfig::default()
        };
        let rare = EngineConfig {
            loras: vec![ADAPTER.into()],
            ..config.clone()
        };
        let everywhere = EngineConfig {
            listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            ..config
        };
        Self {
            rare: Engine::start(rare).await.expect("a free port"),
            common: Engine::start(everywhere).await.expect("a free port"),
        }
    }

    /// Every endpoint but the first is the common engine at an address of its own.
    fn config(&self) -> Config {
        let port = self.common.addr().port();
        let common = (1..ENDPOINTS).map(|endpoint| format!("http://{}:{port}", address(endpoint)));
        let urls: Vec<String> = std::iter::once(self.rare.url()).chain(common).collect();
        let queue = "queue: {maxWait: 120s, maxRequests: 10000}";
        let text = format!(
            "pools: [{{name: chat, strategy: kv-aware, {queue}, endpoints: ['{}']}}]",
            urls.join("', '")
        );
        Config::parse(&text).expect("a configuration of this bench")
    }
}
