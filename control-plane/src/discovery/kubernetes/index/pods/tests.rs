use hermes_core::snapshot::{EndpointLocation, Role};
use serde_json::{Value, json};

use super::*;

fn pod(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "ai", "uid": format!("uid-{name}"), "labels": {}},
        "spec": {"containers": [{"name": "engine", "ports": [{"name": "http", "containerPort": 8123}]}]},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.7",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn read(pod: &Value) -> Pod {
    serde_json::from_value(pod.clone()).unwrap()
}

fn index(port: &str) -> PodIndex {
    PodIndex::new(port.parse().unwrap(), ServerScheme::Http)
}

fn urls(index: &PodIndex) -> Vec<String> {
    index
        .endpoints()
        .endpoints
        .into_iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect()
}

#[test]
fn a_ready_pod_is_an_endpoint() {
    let mut index = index("8000");
    let mut ready = pod("a");
    ready["metadata"]["labels"] =
        json!({"openfuyao.com/pdRole": "prefill", "openfuyao.com/pdGroupID": "g1"});
    assert!(index.apply(read(&ready)));
    let found = index.endpoints();
    let expected = DiscoveredEndpoint {
        address: "http://10.0.0.7:8000".parse().unwrap(),
        uid: "uid-a".to_owned(),
        name: "ai/a".to_owned(),
        role: Some(Role::Prefill),
        group: Some("g1".to_owned()),
        pairing: hermes_core::snapshot::PairingFacts::default(),
        kv_events: None,
    };
    assert_eq!(
        found,
        FoundEndpoints {
            endpoints: vec![expected],
            ..FoundEndpoints::default()
        }
    );
}

#[test]
fn a_pod_is_where_its_node_is_and_in_the_zone_that_kubernetes_copies_to_its_labels() {
    let mut index = index("8000");
    let mut placed = pod("a");
    placed["spec"]["nodeName"] = json!("machine-1");
    index.apply(read(&placed));
    let location = |index: &PodIndex| index.endpoints().endpoints[0].pairing.location.clone();
    assert_eq!(
        location(&index),
        EndpointLocation {
            node: Some("machine-1".into()),
            zone: None,
        },
        "before release 1.35"
    );
    placed["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": "zone-a"});
    assert!(index.apply(read(&placed)));
    assert_eq!(location(&index).zone.as_deref(), Some("zone-a"));
}

#[test]
fn kv_event_ports_of_a_pod_are_found_when_they_are_wanted() {
    let mut publishing = pod("a");
    publishing["spec"]["containers"][0]["ports"] =
        json!([{"name": "zmq-pub", "containerPort": 5601}]);
    let mut silent = index("8000");
    silent.apply(read(&publishing));
    assert_eq!(silent.endpoints().endpoints[0].kv_events, None);
    let mut asking = index("8000").with_event_ports(Some(EventPortNames::default()));
    asking.apply(read(&publishing));
    let found = |index: &PodIndex| {
        index.endpoints().endpoints[0]
            .kv_events
            .map(|ports| ports.publish.get())
    };
    assert_eq!(found(&asking), Some(5601));
    publishing["metadata"]["annotations"] = json!({"hermes.ai/kv-events": "tcp://*:5557"});
    assert!(asking.apply(read(&publishing)), "an annotation is news");
    assert_eq!(found(&asking), Some(5557));
}

#[test]
fn a_pod_that_leaves_or_has_ended_or_has_no_address_is_none() {
    let cases = [
        ("/metadata/deletionTimestamp", json!("2026-01-01T00:00:00Z")),
        ("/status/phase", json!("Failed")),
        ("/status/podIP", json!("")),
        ("/status/podIP", Value::Null),
        ("/status", Value::Null),
    ];
    for (path, value) in cases {
        let mut index = index("8000");
        assert!(index.apply(read(&pod("a"))));
        let mut unfit = pod("a");
        let (parent, field) = path.rsplit_once('/').unwrap();
        unfit.pointer_mut(parent).unwrap()[field] = value.clone();
        assert!(index.apply(read(&unfit)), "{path} = {value} is a change");
        assert_eq!(
            index.endpoints(),
            FoundEndpoints::default(),
            "{path} = {value}"
        );
    }
}

#[test]
fn a_pod_that_is_not_ready_is_marked() {
    let not_ready = json!([{"type": "Ready", "status": "False"}]);
    let starting = json!([{"type": "ContainersReady", "status": "True"}]);
    for conditions in [not_ready, starting] {
        let mut index = index("8000");
        index.apply(read(&pod("a")));
        let ready = index.endpoints().endpoints;
        let mut other = pod("a");
        other["status"]["conditions"] = conditions;
        assert!(index.apply(read(&other)));
        assert_eq!(
            index.endpoints(),
            FoundEndpoints {
                unready: ready,
                ..FoundEndpoints::default()
            }
        );
    }
}

#[test]
fn a_heartbeat_changes_nothing() {
    let mut index = index("8000");
    index.apply(read(&pod("a")));
    let mut again = pod("a");
    again["metadata"]["annotations"] = json!({"seen": "now"});
    again["status"]["conditions"][0]["lastProbeTime"] = json!("2026-01-01T00:00:00Z");
    assert!(!index.apply(read(&again)));
}

#[test]
fn a_named_port_is_the_containers() {
    let mut by_name = index("http");
    by_name.apply(read(&pod("a")));
    assert_eq!(urls(&by_name), ["http://10.0.0.7:8123"]);

    let mut sidecar = pod("a");
    sidecar["spec"]["containers"] = json!([{"name": "other"}]);
    sidecar["spec"]["initContainers"] =
        json!([{"name": "s", "ports": [{"name": "http", "containerPort": 9000}]}]);
    by_name.apply(read(&sidecar));
    assert_eq!(urls(&by_name), ["http://10.0.0.7:9000"]);
}

#[test]
fn a_ready_pod_that_cannot_be_used_is_counted() {
    let mut no_such_port = index("grpc");
    no_such_port.apply(read(&pod("a")));
    assert_eq!(
        no_such_port.endpoints(),
        FoundEndpoints {
            endpoints: vec![],
            left_out: 1,
            ..FoundEndpoints::default()
        }
    );

    let mut encoder = pod("a");
    encoder["metadata"]["labels"] = json!({"llm-d.ai/role": "encode"});
    let mut by_number = index("8000");
    by_number.apply(read(&encoder));
    assert_eq!(
        by_number.endpoints(),
        FoundEndpoints {
            endpoints: vec![],
            left_out: 1,
            ..FoundEndpoints::default()
        }
    );
}

#[test]
fn a_recreated_pod_is_another_incarnation() {
    let mut index = index("8000");
    index.apply(read(&pod("a")));
    let mut again = pod("a");
    again["metadata"]["uid"] = json!("second");
    assert!(index.apply(read(&again)));
    assert_eq!(index.endpoints().endpoints[0].uid, "second");
}

#[test]
fn an_ipv6_address_is_bracketed() {
    let mut index = index("8000");
    let mut ipv6 = pod("a");
    ipv6["status"]["podIP"] = json!("fd00::7");
    index.apply(read(&ipv6));
    assert_eq!(urls(&index), ["http://[fd00::7]:8000"]);
}

#[test]
fn deleting_is_news_once() {
    let mut index = index("8000");
    index.apply(read(&pod("a")));
    assert!(index.delete("a"));
    assert!(!index.delete("a"));
    assert!(urls(&index).is_empty());
}

#[test]
fn a_reset_replaces_the_set_and_says_whether_it_differs() {
    let mut index = index("8000");
    index.apply(read(&pod("a")));
    let mut other = pod("b");
    other["status"]["podIP"] = json!("10.0.0.8");
    let gone = ["a".to_owned()].into();
    assert!(index.reset(vec![read(&other)], &gone));
    assert_eq!(urls(&index), ["http://10.0.0.8:8000"]);
    assert!(!index.reset(vec![read(&other)], &std::collections::BTreeSet::new()));
}

#[test]
fn each_port_is_an_endpoint_with_event_ports_of_its_own() {
    let ports = [8001, 8002].map(|port| NonZeroU16::new(port).unwrap());
    let mut index = index("8000")
        .with_further_ports(ports.to_vec())
        .with_event_ports(Some(EventPortNames::default()));
    let mut ranks = pod("a");
    ranks["metadata"]["annotations"] = json!({"hermes.ai/kv-events": "5557,5600"});
    assert!(index.apply(read(&ranks)));
    let found = index.endpoints().endpoints;
    let seen: Vec<_> = found
        .iter()
        .map(|endpoint| {
            let events = endpoint.kv_events.expect("ports");
            (
                &*endpoint.name,
                events.publish.get(),
                events.replay.map(NonZeroU16::get),
            )
        })
        .collect();
    let expected = [
        ("ai/a:8000", 5557, Some(5600)),
        ("ai/a:8001", 5558, Some(5601)),
        ("ai/a:8002", 5559, Some(5602)),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_port_that_is_not_active_is_no_endpoint() {
    let further = vec![NonZeroU16::new(8001).unwrap()];
    let mut index = index("8000").with_further_ports(further);
    let mut ranks = pod("a");
    index.apply(read(&ranks));
    ranks["metadata"]["annotations"] = json!({"llm-d.ai/active-ports": "8001"});
    assert!(index.apply(read(&ranks)));
    assert_eq!(urls(&index), ["http://10.0.0.7:8001"]);
    assert_eq!(index.endpoints().left_out, 0, "it is no mistake");
    ranks["metadata"]["annotations"] = json!({});
    assert!(index.apply(read(&ranks)));
    assert_eq!(urls(&index).len(), 2);
}
