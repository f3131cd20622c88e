use hermes_core::inference_pool::PickerFailure;
use serde_json::{Value, json};

use super::*;
use crate::{
    config::PoolConfig,
    gateway_api::{AssignedGateway, NamespacedName},
    objects::{catalog::tests::object, kind::ObjectKind},
};

/// A Gateway with a route to these backends, and what they refer to, all in the namespace `ai`.
fn catalog(backends: &Value, protocol: &str) -> ObjectCatalog {
    let mut catalog = ObjectCatalog::default();
    let mut apply = |kind, name: &str, spec: Value| _ = catalog.apply(kind, &object(name, 1, spec));
    let controller = json!({"controllerName": "hermes.ai/gateway"});
    apply(ObjectKind::GatewayClass, "hermes", controller);
    let listener = json!({"name": "http", "port": 80, "protocol": "HTTP"});
    apply(
        ObjectKind::Gateway,
        "front",
        json!({"gatewayClassName": "hermes", "listeners": [listener]}),
    );
    apply(
        ObjectKind::Route,
        "r",
        json!({"parentRefs": [{"name": "front"}], "rules": [{"backendRefs": backends}]}),
    );
    let ports = json!([{"port": 9002, "appProtocol": protocol}]);
    apply(ObjectKind::Service, "epp", json!({"ports": ports}));
    apply(
        ObjectKind::Pool,
        "chat",
        json!({
            "selector": {"matchLabels": {"app": "qwen"}},
            "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": "epp", "failureMode": "FailOpen"},
        }),
    );
    catalog
}

fn pool() -> Value {
    json!([{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "chat"}])
}

fn meaning(catalog: &ObjectCatalog) -> ObjectsMeaning {
    let file = "
inferencePools: {namespaces: [ai], pickers: [hermes]}
gatewayApi: {namespaces: [ai], service: {selector: {app: proxy}}}
";
    let file = Config::parse(file).expect("a good file");
    let assigned = AssignedGateway {
        ports: [(80, 20_000)].into(),
        addresses: Err("its Service has no address yet".to_owned()),
    };
    let facts = GatewayFacts {
        assigned: [(NamespacedName::new("ai", "front"), assigned)].into(),
        ..GatewayFacts::default()
    };
    ObjectsMeaning::new(catalog, &file, &facts)
}

fn only_pool(meaning: &ObjectsMeaning) -> &PoolConfig {
    let [fragment] = &meaning.pools[..] else {
        panic!("one pool: {:?}", meaning.pools)
    };
    &fragment.pool
}

#[test]
fn a_pool_of_another_picker_is_served_by_asking_it_while_a_route_names_it() {
    for (protocol, tls) in [("http2", true), ("kubernetes.io/h2c", false)] {
        let meaning = meaning(&catalog(&pool(), protocol));
        let served = only_pool(&meaning);
        assert_eq!(&*served.name, "ai/chat");
        let picker = served.asked_picker.as_ref().expect("it is asked");
        assert_eq!(&*picker.authority, "epp.ai.svc:9002");
        assert_eq!((picker.tls, picker.on_failure), (tls, PickerFailure::Open));
    }
    let mut unnamed = catalog(&pool(), "http2");
    unnamed.delete(ObjectKind::Route, "ai", "r");
    assert!(meaning(&unnamed).pools.is_empty());
}

#[test]
fn a_port_of_a_service_is_a_pool_that_speaks_its_protocol() {
    let service = json!([{"name": "epp", "port": 9002}]);
    for (protocol, http2) in [("http", false), ("kubernetes.io/h2c", true)] {
        let meaning = meaning(&catalog(&service, protocol));
        let served = only_pool(&meaning);
        assert_eq!((&*served.name, served.http2), ("ai/epp:9002", http2));
        assert!(!served.collector.enabled && served.asked_picker.is_none());
        assert_eq!(served.policy.retry.max_attempts, 1);
    }
}

#[test]
fn each_object_has_a_verdict_and_a_status_and_the_gateway_gets_its_needs() {
    let meaning = meaning(&catalog(&pool(), "http2"));
    let states: Vec<_> = meaning
        .verdicts
        .iter()
        .map(|((kind, ..), verdict)| (*kind, matches!(verdict, ObjectVerdict::Accepted(None))))
        .collect();
    // The Gateway has no address yet.
    assert_eq!(
        states,
        [
            (ObjectKind::Pool, true),
            (ObjectKind::GatewayClass, true),
            (ObjectKind::Gateway, false),
            (ObjectKind::Route, true),
        ]
    );
    let kinds: Vec<ObjectKind> = meaning.statuses.keys().map(|(kind, ..)| *kind).collect();
    assert_eq!(
        kinds,
        [
            ObjectKind::Pool,
            ObjectKind::GatewayClass,
            ObjectKind::Gateway,
            ObjectKind::Route,
        ]
    );
    let needs = meaning.needs.expect("there is a Gateway");
    assert_eq!(needs.gateways.len(), 1);
    assert_eq!(meaning.listeners[0].address.port(), 20_000);
    assert_eq!(&*meaning.routes[0].listeners[0], "ai/front/http");
}
