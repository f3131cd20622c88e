use hermes_core::snapshot::{EndpointLocation, Role};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn service(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "ai", "labels": {"app": "vllm"}},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8000}, {"name": "metrics", "port": 9090}]},
    })
}

/// A slice of Service `service` with one ready pod per address.
fn slice(name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoint = |ip: &&str| {
        let target = json!({"kind": "Pod", "namespace": "ai", "name": format!("pod-{ip}"), "uid": format!("uid-{ip}")});
        json!({"addresses": [ip], "conditions": {"ready": true, "serving": true}, "targetRef": target})
    };
    let ports = json!([{"name": "http", "port": 8000, "protocol": "TCP"}, {"name": "metrics", "port": 9090}]);
    json!({
        "metadata": {"name": name, "namespace": "ai", "labels": {SERVICE_NAME: service}},
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn index(port: &str) -> ServiceIndex {
    ServiceIndex::new(port.parse().unwrap(), None)
}

fn apply_service(index: &mut ServiceIndex, service: &Value) -> bool {
    index.apply(serde_json::from_value::<Service>(service.clone()).unwrap())
}

fn apply_slice(index: &mut ServiceIndex, slice: &Value) -> bool {
    index.apply(serde_json::from_value::<EndpointSlice>(slice.clone()).unwrap())
}

fn delete<K>(index: &mut ServiceIndex, name: &str) -> bool
where
    ServiceIndex: ObjectIndex<K>,
{
    ObjectIndex::<K>::delete(index, name)
}

fn urls(index: &ServiceIndex) -> Vec<String> {
    index
        .endpoints()
        .endpoints
        .into_iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect()
}

/// An index with one Service `a` and one slice of it with the pod at 10.0.0.1.
fn joined(port: &str) -> ServiceIndex {
    let mut index = index(port);
    apply_service(&mut index, &service("a"));
    apply_slice(&mut index, &slice("a-1", "a", &["10.0.0.1"]));
    index
}

#[test]
fn a_service_and_its_slice_make_endpoints_in_either_order() {
    let mut slice_first = index("80");
    assert!(apply_slice(
        &mut slice_first,
        &slice("a-1", "a", &["10.0.0.1"])
    ));
    assert!(urls(&slice_first).is_empty());
    assert!(apply_service(&mut slice_first, &service("a")));

    let expected = DiscoveredEndpoint {
        address: "http://10.0.0.1:8000".parse().unwrap(),
        uid: "uid-10.0.0.1".to_owned(),
        name: "ai/pod-10.0.0.1".to_owned(),
        role: None,
        group: None,
        pairing: hermes_core::snapshot::PairingFacts::default(),
        kv_events: None,
    };
    assert_eq!(
        slice_first.endpoints(),
        FoundEndpoints {
            endpoints: vec![expected],
            ..FoundEndpoints::default()
        }
    );
    assert_eq!(joined("80").endpoints(), slice_first.endpoints());
}

#[test]
fn where_pods_publish_kv_events_is_found_by_the_services_ports_or_its_annotation() {
    let mut index = index("80").with_event_ports(Some(EventPortNames::default()));
    apply_service(&mut index, &service("a"));
    let mut slice = slice("a-1", "a", &["10.0.0.1"]);
    slice["ports"] = json!([{"name": "http", "port": 8000}, {"name": "kv-events", "port": 5601}]);
    apply_slice(&mut index, &slice);
    let found = |index: &ServiceIndex| {
        index.endpoints().endpoints[0]
            .kv_events
            .map(|ports| ports.publish.get())
    };
    assert_eq!(found(&index), Some(5601));
    let mut annotated = service("a");
    annotated["metadata"]["annotations"] = json!({"hermes.ai/kv-events": "5557,5558"});
    assert!(apply_service(&mut index, &annotated));
    assert_eq!(found(&index), Some(5557));
    annotated["metadata"]["annotations"]["other"] = json!("no news");
    assert!(!apply_service(&mut index, &annotated));
}

#[test]
fn the_port_is_resolved_by_number_by_name_or_taken_as_it_is() {
    assert_eq!(
        urls(&joined("80")),
        ["http://10.0.0.1:8000"],
        "a Service port's number"
    );
    assert_eq!(
        urls(&joined("metrics")),
        ["http://10.0.0.1:9090"],
        "a Service port's name"
    );
    assert_eq!(
        urls(&joined("8000")),
        ["http://10.0.0.1:8000"],
        "no Service port: the number on the pod"
    );
    assert_eq!(
        urls(&joined("1234")),
        ["http://10.0.0.1:1234"],
        "no Service port: the number on the pod"
    );
    assert_eq!(
        joined("grpc").endpoints(),
        FoundEndpoints {
            endpoints: vec![],
            left_out: 1,
            ..FoundEndpoints::default()
        },
        "no such name"
    );
}

#[test]
fn the_scheme_is_configured_or_what_the_service_port_says() {
    let mut secured = service("a");
    secured["spec"]["ports"][0]["appProtocol"] = json!("https");
    let url = |port: &str, scheme| {
        let mut index = ServiceIndex::new(port.parse().unwrap(), scheme);
        apply_service(&mut index, &secured);
        apply_slice(&mut index, &slice("a-1", "a", &["10.0.0.1"]));
        urls(&index).concat()
    };
    assert_eq!(url("80", None), "https://10.0.0.1:8000");
    assert_eq!(url("metrics", None), "http://10.0.0.1:9090");
    assert_eq!(url("1234", None), "http://10.0.0.1:1234");
    assert_eq!(url("80", Some(ServerScheme::Http)), "http://10.0.0.1:8000");
    assert_eq!(
        url("1234", Some(ServerScheme::Https)),
        "https://10.0.0.1:1234"
    );
}

#[test]
fn an_unnamed_port_resolves_too() {
    let mut index = joined("80");
    let mut unnamed = service("a");
    unnamed["spec"]["ports"] = json!([{"port": 80, "targetPort": 8001}]);
    apply_service(&mut index, &unnamed);
    let mut slice = slice("a-1", "a", &["10.0.0.1"]);
    slice["ports"] = json!([{"name": "", "port": 8001}]);
    apply_slice(&mut index, &slice);
    assert_eq!(urls(&index), ["http://10.0.0.1:8001"]);
}

#[test]
fn a_udp_port_of_the_same_number_is_not_meant() {
    let mut index = joined("80");
    let mut both = service("a");
    both["spec"]["ports"] =
        json!([{"name": "quic", "port": 80, "protocol": "UDP"}, {"name": "http", "port": 80}]);
    apply_service(&mut index, &both);
    assert_eq!(urls(&index), ["http://10.0.0.1:8000"]);
}

#[test]
fn slices_without_ports_take_the_number() {
    let mut index = joined("8000");
    let mut headless = slice("a-1", "a", &["10.0.0.1"]);
    headless["ports"] = Value::Null;
    apply_slice(&mut index, &headless);
    assert_eq!(urls(&index), ["http://10.0.0.1:8000"]);
}

#[test]
fn only_ready_serving_and_staying_endpoints_count() {
    let cases = [
        (json!({}), 1),
        (Value::Null, 1),
        (json!({"ready": true}), 1),
        (json!({"ready": false}), 0),
        (json!({"ready": true, "serving": false}), 0),
        (
            json!({"ready": false, "serving": true, "terminating": true}),
            0,
        ),
        (
            json!({"ready": true, "serving": true, "terminating": true}),
            0,
        ),
    ];
    for (conditions, expected) in cases {
        let mut index = joined("80");
        let mut slice = slice("a-1", "a", &["10.0.0.1"]);
        slice["endpoints"][0]["conditions"] = conditions.clone();
        apply_slice(&mut index, &slice);
        assert_eq!(index.endpoints().endpoints.len(), expected, "{conditions}");
    }
}

#[test]
fn a_service_that_is_deleted_or_being_deleted_takes_its_endpoints_along() {
    let mut index = joined("80");
    assert!(delete::<Service>(&mut index, "a"));
    assert!(urls(&index).is_empty());
    assert!(!delete::<Service>(&mut index, "a"));

    let mut index = joined("80");
    let mut leaving = service("a");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert!(apply_service(&mut index, &leaving));
    assert!(urls(&index).is_empty());
}

#[test]
fn endpoints_move_between_slices_and_leave_with_them() {
    let mut index = joined("80");
    apply_slice(&mut index, &slice("a-2", "a", &["10.0.0.1", "10.0.0.2"]));
    assert_eq!(
        urls(&index),
        ["http://10.0.0.1:8000", "http://10.0.0.2:8000"],
        "in two slices, and once"
    );
    delete::<EndpointSlice>(&mut index, "a-1");
    assert_eq!(urls(&index).len(), 2);
    delete::<EndpointSlice>(&mut index, "a-2");
    assert!(urls(&index).is_empty());
}

#[test]
fn slices_of_other_services_do_not_count() {
    let mut index = joined("80");
    apply_slice(&mut index, &slice("b-1", "b", &["10.0.0.9"]));
    let mut orphan = slice("c-1", "c", &["10.0.0.9"]);
    orphan["metadata"]["labels"] = json!({});
    assert!(!apply_slice(&mut index, &orphan));
    assert_eq!(urls(&index), ["http://10.0.0.1:8000"]);
}

#[test]
fn role_and_group_come_from_the_service() {
    let mut index = joined("80");
    let mut decode = service("a");
    decode["metadata"]["labels"] = json!({"hermes.ai/role": "decode", "hermes.ai/group": "g"});
    assert!(apply_service(&mut index, &decode));
    let endpoint = index.endpoints().endpoints.remove(0);
    assert_eq!(
        (endpoint.role, endpoint.group.as_deref()),
        (Some(Role::Decode), Some("g"))
    );

    decode["metadata"]["labels"] = json!({"hermes.ai/role": "conductor"});
    apply_service(&mut index, &decode);
    assert_eq!(
        index.endpoints(),
        FoundEndpoints {
            endpoints: vec![],
            left_out: 1,
            ..FoundEndpoints::default()
        }
    );
}

#[test]
fn node_and_zone_come_from_the_slice() {
    let mut index = joined("80");
    let mut placed = slice("a-1", "a", &["10.0.0.1"]);
    placed["endpoints"][0]["nodeName"] = json!("machine-1");
    placed["endpoints"][0]["zone"] = json!("zone-a");
    assert!(apply_slice(&mut index, &placed));
    let mut labelled = service("a");
    labelled["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": "of no pod"});
    apply_service(&mut index, &labelled);
    assert_eq!(
        index.endpoints().endpoints[0].pairing.location,
        EndpointLocation {
            node: Some("machine-1".into()),
            zone: Some("zone-a".into()),
        }
    );
}

#[test]
fn a_dual_stack_pod_is_one_endpoint() {
    let mut index = joined("80");
    let mut dual = service("a");
    dual["spec"]["ipFamilies"] = json!(["IPv6", "IPv4"]);
    apply_service(&mut index, &dual);
    let mut ipv6 = slice("a-6", "a", &["fd00::1"]);
    ipv6["addressType"] = json!("IPv6");
    apply_slice(&mut index, &ipv6);
    assert_eq!(urls(&index), ["http://[fd00::1]:8000"]);
}

#[test]
fn an_endpoint_without_a_pod_is_called_by_its_authority() {
    let mut index = joined("80");
    let mut slice = slice("a-1", "a", &["10.0.0.1"]);
    slice["endpoints"][0]["targetRef"] = Value::Null;
    apply_slice(&mut index, &slice);
    let endpoint = index.endpoints().endpoints.remove(0);
    assert_eq!((&*endpoint.uid, &*endpoint.name), ("", "10.0.0.1:8000"));
}

#[test]
fn what_is_no_address_or_no_port_is_skipped() {
    let mut index = joined("80");
    let mut odd = slice("a-1", "a", &["10.0.0.1", "example.com/../x", ""]);
    odd["endpoints"][0]["addresses"] = json!([]);
    odd["ports"] = json!([{"name": "http", "port": 70000}]);
    apply_slice(&mut index, &odd);
    assert!(urls(&index).is_empty());
}

#[test]
fn an_update_that_bears_on_nothing_is_no_change() {
    let mut index = joined("80");
    let mut touched = slice("a-1", "a", &["10.0.0.1"]);
    touched["metadata"]["annotations"] =
        json!({"endpoints.kubernetes.io/last-change-trigger-time": "now"});
    touched["endpoints"][0]["hints"] = json!({"forZones": [{"name": "z"}]});
    assert!(!apply_slice(&mut index, &touched));
    let mut annotated = service("a");
    annotated["metadata"]["annotations"] = json!({"note": "x"});
    assert!(!apply_service(&mut index, &annotated));
}

proptest! {
    /// The order in which objects become known never matters, and each URL comes once.
    #[test]
    fn the_set_depends_on_the_objects_and_not_on_their_order(
        slices in prop::collection::vec((0..3u8, prop::collection::vec(1..20u8, 0..6)), 0..6),
        rotation in 0..6usize,
    ) {
        let build = |rotation: usize| {
            let mut index = index("80");
            let mut objects: Vec<_> = slices.iter().enumerate().collect();
            objects.rotate_left(rotation.min(slices.len()));
            for (number, (owner, hosts)) in objects {
                let hosts: Vec<_> = hosts.iter().map(|host| format!("10.0.0.{host}")).collect();
                let hosts: Vec<_> = hosts.iter().map(String::as_str).collect();
                apply_slice(&mut index, &slice(&format!("s-{number}"), &owner.to_string(), &hosts));
                apply_service(&mut index, &service(&owner.to_string()));
            }
            index.endpoints()
        };
        let found = build(0);
        prop_assert_eq!(&build(rotation), &found);
        prop_assert!(found.endpoints.windows(2).all(|pair| pair[0].address < pair[1].address));
    }
}
