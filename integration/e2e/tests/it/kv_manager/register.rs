//! Event publishers are registered at the conductor, registered again after its restart, and
//! unregistered when removed.

use std::{collections::BTreeSet, sync::Arc};

use hermes_control_plane::cache_sources::kv_manager::{
    Conductor, Dialect, Encoding, KvManager, KvManagerMetrics, KvManagerSettings, Registration,
};
use hermes_core::snapshot::{Endpoint, EndpointId, Model, ModelHolders, Pool, PoolSpec, Role};
use hermes_testkit::conductor::ConductorServer;
use hermes_testkit::conductor::Dialect as Spoken;
use hermes_testkit::conductor::Fault;
use prometheus_client::registry::Registry;
use serde_json::json;

use super::settings;
use crate::client::eventually;

fn pool(hosts: &[u64]) -> Pool {
    let model = Model {
        name: "m".into(),
        parent: None,
        max_model_len: None,
        holders: ModelHolders::All,
    };
    let spec = PoolSpec::new("chat", hermes_core::policy::PoolPolicy::default());
    let endpoint = |host: &u64| {
        let address = format!("http://10.0.0.{host}:8000").parse();
        Arc::new(Endpoint {
            id: EndpointId(*host),
            address: address.expect("an address"),
            name: "".into(),
            role: Role::Aggregate,
            group: None,
            pairing: hermes_core::snapshot::PairingFacts::default(),
        })
    };
    Pool {
        spec: Arc::new(spec),
        models: vec![Arc::new(model)].into(),
        endpoints: hosts.iter().map(endpoint).collect(),
    }
}

fn manager(server: &ConductorServer, encoding: Encoding, ranks: u32) -> KvManager {
    hermes_runtime::crypto::install_default_crypto();
    let registration = Registration {
        ranks,
        ..Registration::default()
    };
    let conductor = Conductor {
        encoding,
        register: Some(registration),
        ..Conductor::default()
    };
    let settings = KvManagerSettings {
        dialect: Dialect::Conductor(Box::new(conductor)),
        ..settings(&format!("{}/query", server.url()))
    };
    KvManager::new(
        settings,
        KvManagerMetrics::register(&mut Registry::default()),
    )
    .expect("a valid URL")
}

/// Registered instances and ranks.
fn rows(server: &ConductorServer) -> BTreeSet<(String, u64)> {
    server.publishers().into_keys().collect()
}

fn of(instances: &[(u64, u64)]) -> BTreeSet<(String, u64)> {
    instances
        .iter()
        .map(|(host, rank)| (format!("10.0.0.{host}:8000"), *rank))
        .collect()
}

#[tokio::test]
async fn endpoints_are_registered_and_unregistered_when_removed() {
    for (spoken, encoding) in [
        (Spoken::Json, Encoding::Json),
        (Spoken::Msgpack, Encoding::Msgpack),
    ] {
        let server = ConductorServer::start(spoken, |_| Vec::new())
            .await
            .expect("a port");
        let manager = manager(&server, encoding, 2);
        manager.follow(&pool(&[1, 2]), Some(16));
        eventually("all are registered", || async {
            rows(&server) == of(&[(1, 0), (1, 1), (2, 0), (2, 1)])
        })
        .await;
        let publisher = &server.publishers()[&("10.0.0.1:8000".to_owned(), 1)];
        assert_eq!(
            publisher.endpoint, "tcp://10.0.0.1:5558",
            "each rank has a port of its own"
        );
        assert_eq!(
            (&publisher.body["modelname"], &publisher.body["block_size"]),
            (&json!("m"), &json!(16))
        );
        manager.follow(&pool(&[2]), Some(16));
        eventually("the one that went is taken back", || async {
            rows(&server) == of(&[(2, 0), (2, 1)])
        })
        .await;
    }
}

#[tokio::test]
async fn no_endpoint_is_registered_before_the_block_size_is_known() {
    let server = ConductorServer::start(Spoken::Json, |_| Vec::new())
        .await
        .expect("a port");
    let manager = manager(&server, Encoding::Json, 1);
    manager.follow(&pool(&[1]), None);
    manager.follow(&pool(&[1]), Some(32));
    eventually("it is registered", || async {
        rows(&server) == of(&[(1, 0)])
    })
    .await;
    assert_eq!(
        server.publishers()[&("10.0.0.1:8000".to_owned(), 0)].body["block_size"],
        json!(32)
    );
}

#[tokio::test]
async fn publishers_are_registered_again_at_a_restarted_conductor() {
    let server = ConductorServer::start(Spoken::Msgpack, |_| Vec::new())
        .await
        .expect("a port");
    let manager = manager(&server, Encoding::Msgpack, 1);
    manager.follow(&pool(&[1]), Some(16));
    eventually("it is registered", || async {
        rows(&server) == of(&[(1, 0)])
    })
    .await;
    server.set_fault(Fault::Refuse);
    server.forget();
    server.set_fault(Fault::None);
    // A change of the pool begins a round at once; without one there is a round every ten seconds.
    manager.follow(&pool(&[1, 2]), Some(16));
    eventually("both are registered", || async {
        rows(&server) == of(&[(1, 0), (2, 0)])
    })
    .await;
}
