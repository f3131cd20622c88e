//! The replica under load.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use hermes_control_plane::{
    app::{self, ConfigSource, ControlPlane, Options},
    config::Config,
};
use hermes_runtime::shutdown::Drain;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};

/// Tokens of a block of 256 bytes.
const BLOCK_TOKENS: usize = 64;
const START: Duration = Duration::from_secs(10);
/// Readiness needs only the configuration; the scheduler exists after the first snapshot.
const SETTLE: Duration = Duration::from_millis(500);

/// One replica and the ports of its endpoints, which have no server.
pub(crate) struct ReplicaUnderLoad {
    bound: ControlPlane,
    _engines: Vec<TcpListener>,
}

/// A runtime of one thread of this name.
pub(crate) fn worker(name: &str) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name(name)
        .enable_all()
        .build()
        .expect("a runtime")
}

impl ReplicaUnderLoad {
    /// Endpoints cache `blocks` blocks each, and publish KV events at `events`, if at all.
    pub(crate) fn start(
        server: &Runtime,
        endpoints: usize,
        blocks: usize,
        events: Option<u16>,
    ) -> Self {
        let listen = |endpoint| TcpListener::bind((address(endpoint), 0)).expect("a free port");
        let engines: Vec<TcpListener> = (0..endpoints).map(listen).collect();
        let replica = Self::with(server, config(&engines, blocks, events));
        Self {
            _engines: engines,
            ..replica
        }
    }

    /// With this configuration.
    pub(crate) fn with(server: &Runtime, config: Config) -> Self {
        let options = Options {
            admin: None,
            ..Options::local(ConfigSource::Value(config))
        };
        let bound = server.block_on(async {
            let started = server.spawn(app::start(options, Drain::default()));
            let bound = started.await.expect("no panic").expect("it starts");
            timeout(START, bound.readiness.ready())
                .await
                .expect("static endpoints are known at once");
            tokio::time::sleep(SETTLE).await;
            bound
        });
        Self {
            bound,
            _engines: Vec::new(),
        }
    }

    /// Where proxies connect.
    pub(crate) fn grpc(&self) -> SocketAddr {
        self.bound.grpc
    }
}

/// The address of an endpoint.
pub(crate) fn address(endpoint: usize) -> IpAddr {
    let [.., high, low] = (endpoint as u32 + 1).to_be_bytes();
    IpAddr::from([127, 0, high, low])
}

fn config(engines: &[TcpListener], blocks: usize, events: Option<u16>) -> Config {
    let url =
        |engine: &TcpListener| format!("'http://{}'", engine.local_addr().expect("it is bound"));
    let urls: Vec<String> = engines.iter().map(url).collect();
    let strategy = format!(
        "strategy: {{name: kv-aware, defaultCacheTokens: {}}}",
        blocks * BLOCK_TOKENS
    );
    let events = events.map_or_else(String::new, |port| {
        format!(", kvEvents: {{port: {port}, replayPort: 0, ranks: 1}}")
    });
    let text = format!(
        "pools: [{{name: chat, models: [m], metrics: {{enabled: false}}, {strategy}{events}, endpoints: [{}]}}]",
        urls.join(", ")
    );
    Config::parse(&text).expect("a configuration of this bench")
}
