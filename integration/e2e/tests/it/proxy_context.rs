//! A real proxy between simulated engines and control-plane replicas that a test scripts.

use std::{sync::Arc, time::Duration};

use hermes_bench::fleet;
use hermes_bench::fleet::{Plane, instant};
use hermes_core::{
    address::ServerAddress,
    policy::PoolPolicy,
    snapshot::{Endpoint, EndpointId, Epoch, Pool, PoolSpec, Role, Snapshot, Version},
};
use hermes_data_plane::app as data;
use hermes_engine_sim::{Engine, EngineHandle};
use hermes_testkit::replica::Replica;
use serde_json::{Value, json};

use crate::client::{client, eventually, metric};

/// A pool of simulated engines, and the snapshot of it that replicas send.
pub(crate) struct ProxyContext {
    pub(crate) engines: Vec<EngineHandle>,
    pub(crate) snapshot: Snapshot,
}

impl ProxyContext {
    /// The pool `chat`, with a score deadline that slow machines meet.
    pub(crate) async fn of(engines: usize) -> Self {
        let policy = PoolPolicy {
            score_deadline: Duration::from_secs(5),
            ..PoolPolicy::default()
        };
        Self::with(engines, policy).await
    }

    pub(crate) async fn with(engines: usize, policy: PoolPolicy) -> Self {
        let mut handles = Vec::new();
        for _ in 0..engines {
            handles.push(Engine::start(instant()).await.expect("an engine starts"));
        }
        let endpoint = |engine: &EngineHandle| {
            let address = ServerAddress::parse(&engine.url()).expect("an address");
            let id = EndpointId::of("chat", &address, "");
            Arc::new(Endpoint {
                id,
                name: engine.addr().to_string().into(),
                role: Role::Aggregate,
                group: None,
                pairing: hermes_core::snapshot::PairingFacts::default(),
                address,
            })
        };
        let mut endpoints: Vec<_> = handles.iter().map(endpoint).collect();
        endpoints.sort_by_key(|endpoint| endpoint.id);
        let spec = Arc::new(PoolSpec::new("chat", policy));
        let pools = vec![Arc::new(Pool {
            spec,
            models: hermes_core::collection::Collection::default(),
            endpoints: endpoints.into(),
        })];
        let snapshot = Snapshot {
            epoch: Epoch(1),
            version: Version(1),
            pools: pools.into(),
            ..Snapshot::default()
        };
        Self {
            engines: handles,
            snapshot,
        }
    }

    /// The same snapshot in the next epoch, as a restarted replica sends it.
    pub(crate) fn restarted(&self) -> Snapshot {
        Snapshot {
            epoch: Epoch(self.snapshot.epoch.0 + 1),
            ..self.snapshot.clone()
        }
    }

    /// The id of the first endpoint in the snapshot's order.
    pub(crate) fn first(&self) -> u64 {
        self.snapshot.pools[0].endpoints[0].id.0
    }
}

pub(crate) async fn proxy_of(replicas: &[&Replica]) -> Plane<data::DataPlane> {
    let targets: Vec<_> = replicas.iter().map(|replica| replica.grpc).collect();
    let proxy = fleet::proxy(&targets).await.expect("a proxy starts");
    await_connected(&proxy, targets.len() as f64).await;
    eventually("it has fresh loads", || async {
        routing_state(&proxy).await["load_is_fresh"] == true
    })
    .await;
    proxy
}

pub(crate) async fn chosen_by(proxy: &Plane<data::DataPlane>, level: &str) -> f64 {
    metric(
        &proxy.admin_url(),
        &format!("hermes_endpoint_selections_total{{pool=\"chat\",level=\"{level}\"}}"),
    )
    .await
}

/// Waits until the proxy is connected to `replicas` replicas.
pub(crate) async fn await_connected(proxy: &Plane<data::DataPlane>, replicas: f64) {
    let admin = proxy.admin_url();
    eventually(
        "the number of replicas that the proxy is connected to",
        || async { metric(&admin, "hermes_connected_control_planes").await == replicas },
    )
    .await;
}

/// Waits until the proxy is connected to `replicas` replicas that have discovered every pool.
pub(crate) async fn await_discovered(proxy: &Plane<data::DataPlane>, replicas: usize) {
    eventually("all replicas have discovered all pools", || async {
        let state = routing_state(proxy).await;
        let pending = |pool: &Value| {
            let pending = &pool["spec"]["pending"];
            pending["endpoints"] == true || pending["models"] == true
        };
        let lacks = |replica: &Value| replica["undiscovered_pools"] != json!([]);
        list(&state["replicas"]).len() == replicas
            && !list(&state["replicas"]).iter().any(lacks)
            && !list(&state["snapshot"]["pools"]).iter().any(pending)
    })
    .await;
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The page `/debug/snapshot`; `null` before a first snapshot.
pub(crate) async fn routing_state(proxy: &Plane<data::DataPlane>) -> Value {
    let page = format!("{}/debug/snapshot", proxy.admin_url());
    let response = client().get(&page).send().await.expect("answers");
    response.json().await.unwrap_or_default()
}
