//! The Services of Gateways, against an API server over HTTP.

use std::{collections::BTreeMap, sync::Arc};

use hermes_control_plane::{
    config::{GatewayServiceConfig, ServiceReach},
    discovery::client,
    gateway_ports::{
        GatewayAddress, GatewayName, GatewayPortFeed, GatewayPortMetrics, GatewayProblem,
        GatewayService, GatewayServices, NewestWantedGateways, WantedGateway, WantedGateways,
    },
};
use hermes_testkit::apiserver::ApiServer;
use k8s_openapi::api::core::v1::Service;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::client::eventually;

/// A replica of the control plane that gives Gateways their Services.
struct Replica {
    wanted: watch::Sender<NewestWantedGateways>,
    services: watch::Receiver<GatewayServices>,
    _running: AbortOnDropHandle<()>,
}

impl Replica {
    fn start(api: &ApiServer) -> Self {
        hermes_runtime::crypto::install_default_crypto();
        let url = api.url().parse().expect("an address is a URL");
        let kube = client::connect(kube::Config::new(url)).expect("no credentials are needed");
        let (wanted, gateways) = watch::channel(None);
        let (published, services) = watch::channel(None);
        let feed = GatewayPortFeed {
            wanted: gateways,
            services: Arc::new(published),
            client: Arc::new(OnceCell::new_with(Some(kube))),
            metrics: GatewayPortMetrics::register(&mut Registry::default()),
        };
        Self {
            wanted,
            services,
            _running: AbortOnDropHandle::new(tokio::spawn(feed.run())),
        }
    }

    /// From now on these Gateways are wanted, each with these ports.
    fn want(&self, gateways: &[(&str, &[u16])]) {
        self.wanted.send_replace(Some(Arc::new(wanted(gateways))));
    }

    fn service(&self, gateway: &str) -> GatewayService {
        let services = self.services.borrow();
        let service = services
            .as_ref()
            .and_then(|services| services.get(&name(gateway)));
        service.cloned().unwrap_or_default()
    }

    async fn await_address(&self, gateway: &str) -> GatewayService {
        eventually("an address", || async {
            !self.service(gateway).addresses.is_empty()
        })
        .await;
        self.service(gateway)
    }
}

fn name(name: &str) -> GatewayName {
    GatewayName {
        namespace: "ai".into(),
        name: name.into(),
    }
}

fn wanted(gateways: &[(&str, &[u16])]) -> WantedGateways {
    let gateway = |(name, ports): &(&str, &[u16])| {
        let wanted = WantedGateway {
            ports: ports.iter().copied().collect(),
            ..WantedGateway::default()
        };
        (self::name(name), wanted)
    };
    WantedGateways {
        controller: "hermes.ai/gateway".into(),
        service: GatewayServiceConfig {
            namespace: Some("proxies".into()),
            reach: ServiceReach::ClusterIp,
            selector: [("app".into(), "proxy".into())].into(),
            annotations: BTreeMap::new(),
            ports: 20_000..=20_099,
        },
        gateways: gateways.iter().map(gateway).collect(),
    }
}

/// The Services by the Gateways that they are annotated with.
fn services(api: &ApiServer) -> BTreeMap<String, Value> {
    let all = api.objects::<Service>().into_iter();
    let named = all.filter_map(|service| {
        let gateway = service["metadata"]["annotations"]["hermes.ai/gateway"].as_str()?;
        Some((gateway.to_owned(), service.clone()))
    });
    named.collect()
}

#[tokio::test]
async fn each_gateway_gets_a_service_that_leads_to_ports_of_its_own() {
    let api = ApiServer::start().await.expect("starts");
    let replica = Replica::start(&api);
    replica.want(&[("a", &[80, 443]), ("b", &[80])]);
    let (a, b) = (
        replica.await_address("a").await,
        replica.await_address("b").await,
    );
    assert_ne!(a.ports[&80], b.ports[&80]);
    let service = &services(&api)["ai/a"];
    assert_eq!(service["metadata"]["namespace"], "proxies");
    assert_eq!(service["spec"]["selector"], json!({"app": "proxy"}));
    let target = |port: &Value| (port["port"].as_u64(), port["targetPort"].as_u64());
    let ports = service["spec"]["ports"].as_array().expect("ports");
    let ports: Vec<_> = ports.iter().map(target).collect();
    let expected = [80, 443].map(|port| (Some(u64::from(port)), Some(u64::from(a.ports[&port]))));
    assert_eq!(ports, expected);
    let ip = service["spec"]["clusterIP"].as_str().expect("an address");
    assert_eq!(a.addresses, [GatewayAddress::Ip(ip.into())]);
}

#[tokio::test]
async fn while_nothing_is_wanted_there_is_no_client_of_an_api_server() {
    let (_, wanted) = watch::channel(None);
    let (published, _services) = watch::channel(None);
    let client = Arc::new(OnceCell::new());
    let feed = GatewayPortFeed {
        wanted,
        services: Arc::new(published),
        client: Arc::clone(&client),
        metrics: GatewayPortMetrics::register(&mut Registry::default()),
    };
    feed.run().await;
    assert!(client.get().is_none());
}

#[tokio::test]
async fn a_restart_moves_no_port_and_writes_nothing() {
    let api = ApiServer::start().await.expect("starts");
    let first = Replica::start(&api);
    first.want(&[("a", &[80]), ("b", &[80])]);
    let ports = (
        first.await_address("a").await.ports,
        first.await_address("b").await.ports,
    );
    drop(first);
    let writes = api.requests().writes;
    let second = Replica::start(&api);
    // The first one is gone, whose port the hash of another might be.
    second.want(&[("b", &[80]), ("a", &[80])]);
    let again = (
        second.await_address("a").await.ports,
        second.await_address("b").await.ports,
    );
    assert_eq!(again, ports);
    assert_eq!(api.requests().writes, writes);
}

#[tokio::test]
async fn equal_replicas_agree_and_do_not_contend() {
    let api = ApiServer::start().await.expect("starts");
    let replicas = [
        Replica::start(&api),
        Replica::start(&api),
        Replica::start(&api),
    ];
    let gateways: &[(&str, &[u16])] = &[("a", &[80]), ("b", &[80]), ("c", &[80])];
    for replica in &replicas {
        replica.want(gateways);
    }
    for gateway in ["a", "b", "c"] {
        let first = replicas[0].await_address(gateway).await;
        for replica in &replicas[1..] {
            assert_eq!(replica.await_address(gateway).await, first);
        }
    }
    assert!(
        api.requests().writes <= 9,
        "each Service once by each replica, at most"
    );
}

#[tokio::test]
async fn the_service_of_a_gateway_that_is_gone_is_deleted_and_no_other() {
    let api = ApiServer::start().await.expect("starts");
    let theirs = json!({"metadata": {"name": "theirs", "namespace": "proxies"}});
    api.apply::<Service>(&serde_json::from_value(theirs).expect("a Service"));
    let replica = Replica::start(&api);
    replica.want(&[("a", &[80]), ("b", &[80])]);
    replica.await_address("a").await;
    let b = replica.await_address("b").await;
    replica.want(&[("b", &[80])]);
    eventually("the deletion", || async { services(&api).len() == 1 }).await;
    assert!(services(&api).contains_key("ai/b"));
    assert_eq!(api.objects::<Service>().len(), 2, "the other one is there");
    assert_eq!(replica.service("b"), b);
}

#[tokio::test]
async fn a_service_that_was_changed_by_hand_is_put_right() {
    let api = ApiServer::start().await.expect("starts");
    let replica = Replica::start(&api);
    replica.want(&[("a", &[80])]);
    let address = replica.await_address("a").await;
    let mut service = services(&api)["ai/a"].clone();
    service["spec"]["selector"] = json!({"app": "nothing"});
    service["metadata"]["annotations"]["cloud"] = json!("theirs");
    api.apply::<Service>(&serde_json::from_value(service).expect("a Service"));
    eventually("the selector", || async {
        services(&api)["ai/a"]["spec"]["selector"] == json!({"app": "proxy"})
    })
    .await;
    let service = &services(&api)["ai/a"];
    assert_eq!(service["metadata"]["annotations"]["cloud"], "theirs");
    assert_eq!(replica.service("a"), address);
}

#[tokio::test]
async fn a_refused_service_is_a_reason_and_comes_when_it_is_permitted() {
    let api = ApiServer::start().await.expect("starts");
    api.forbid_writes::<Service>();
    let replica = Replica::start(&api);
    replica.want(&[("a", &[80])]);
    eventually("the reason", || async {
        let problem = replica.service("a").problem;
        matches!(&problem, Some(GatewayProblem::NotWritten(reason)) if reason.contains("forbidden"))
    })
    .await;
    api.permit_all();
    assert_eq!(replica.await_address("a").await.problem, None);
}
