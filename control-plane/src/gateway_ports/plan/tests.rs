//! Gateways in, Services and what is published of them out.

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::*;
use crate::{
    discovery::ObjectIndex,
    gateway_ports::{
        FIELD_MANAGER, GatewayAddress,
        fixture::{config, gateway, name},
    },
};

const CONTROLLER: &str = "hermes.ai/gateway";

/// The Services of a cluster in which every change is made at once.
#[derive(Default)]
struct Cluster {
    services: ObservedServices,
    failed: FailedChanges,
}

impl Cluster {
    fn plan(&self, wanted: &WantedGateways) -> ServicePlan {
        plan(wanted, &self.services, &self.failed)
    }

    /// Makes all changes that are due, and plans again.
    fn settle(&mut self, wanted: &WantedGateways) -> ServicePlan {
        for (name, change) in self.plan(wanted).due {
            match change {
                ServiceChange::Apply { manifest, .. } => {
                    self.put(manifest.object("hermes", &name));
                }
                ServiceChange::Delete { .. } => {
                    self.services.delete(&name);
                }
            }
        }
        self.plan(wanted)
    }

    /// A Service as the API server completes it, applied by this router.
    fn put(&mut self, mut service: Value) {
        service["metadata"]["managedFields"] = json!([{"manager": FIELD_MANAGER}]);
        service["metadata"]["uid"] = json!("uid");
        service["spec"]["clusterIP"] = json!("10.0.0.1");
        self.put_foreign(service);
    }

    fn put_foreign(&mut self, service: Value) {
        let service: Service = serde_json::from_value(service).expect("a Service");
        self.services.apply(service);
    }
}

fn wanted(gateways: &[(&str, &[u16])]) -> WantedGateways {
    let named = |(name, ports): &(&str, &[u16])| (self::name(name), gateway(ports));
    WantedGateways {
        controller: CONTROLLER.into(),
        service: config(),
        gateways: gateways.iter().map(named).collect(),
    }
}

fn service_of(gateway: &str) -> Arc<str> {
    service_name(&name(gateway)).into()
}

#[test]
fn a_gateway_gets_a_service_and_then_its_address_and_ports() {
    let (mut cluster, wanted) = (Cluster::default(), wanted(&[("web", &[80, 443])]));
    let first = cluster.plan(&wanted);
    assert_eq!(
        first.gateways[&name("web")].problem,
        Some(GatewayProblem::Pending)
    );
    assert!(first.gateways[&name("web")].ports.is_empty());
    let settled = cluster.settle(&wanted);
    assert_eq!(settled.due, BTreeMap::new());
    let web = &settled.gateways[&name("web")];
    assert_eq!(web.addresses, [GatewayAddress::Ip("10.0.0.1".into())]);
    assert!(web.ports.keys().eq(&[80, 443]));
    assert_eq!(web.problem, None);
}

#[test]
fn two_gateways_with_one_port_get_different_ports_of_the_proxies() {
    let mut cluster = Cluster::default();
    let settled = cluster.settle(&wanted(&[("a", &[80]), ("b", &[80])]));
    let port = |gateway| settled.gateways[&name(gateway)].ports[&80];
    assert_ne!(port("a"), port("b"));
}

#[test]
fn the_service_of_a_gateway_that_is_gone_is_deleted_and_no_other() {
    let mut cluster = Cluster::default();
    cluster.settle(&wanted(&[("a", &[80]), ("b", &[80])]));
    cluster.put_foreign(json!({"metadata": {"name": "other", "uid": "uid"}}));
    let mut theirs = wanted(&[("c", &[80])]);
    theirs.controller = "example.com/other".into();
    cluster.settle(&theirs);
    let plan = cluster.plan(&wanted(&[("b", &[80])]));
    let delete = ServiceChange::Delete { uid: "uid".into() };
    assert_eq!(plan.due, BTreeMap::from([(service_of("a"), delete)]));
}

#[test]
fn a_service_of_someone_else_under_that_name_is_a_reason_and_never_overwritten() {
    let (mut cluster, name) = (Cluster::default(), service_of("web"));
    let metadata = json!({"name": *name, "labels": {"app.kubernetes.io/managed-by": "hermes"}});
    cluster.put_foreign(json!({"metadata": metadata}));
    let plan = cluster.plan(&wanted(&[("web", &[80])]));
    assert_eq!(plan.due, BTreeMap::new());
    let web = &plan.gateways[&self::name("web")];
    let problem = web.problem.clone().expect("it is known why");
    assert_eq!(problem, GatewayProblem::ForeignService(Arc::clone(&name)));
    assert!(problem.to_string().contains(&*name), "{problem}");
}

#[test]
fn a_range_without_a_free_port_is_a_reason_and_costs_no_other_gateway() {
    let mut cluster = Cluster::default();
    let settled = cluster.settle(&wanted(&[("a", &[80, 81, 82]), ("b", &[80, 81])]));
    let (a, b) = (&settled.gateways[&name("a")], &settled.gateways[&name("b")]);
    assert_eq!((a.ports.len(), &a.problem), (3, &None));
    assert_eq!(b.ports.len(), 1, "one of four is left");
    assert_eq!(b.problem, Some(GatewayProblem::NoPort));
}

#[test]
fn a_gateway_without_ports_keeps_its_service_and_gets_no_new_one() {
    let mut cluster = Cluster::default();
    assert_eq!(
        cluster.plan(&wanted(&[("web", &[])])).due,
        BTreeMap::new(),
        "a Service needs a port"
    );
    cluster.settle(&wanted(&[("web", &[80])]));
    assert_eq!(cluster.plan(&wanted(&[("web", &[])])).due, BTreeMap::new());
}

#[test]
fn a_refused_change_is_the_reason_until_the_service_is_right() {
    let (mut cluster, wanted) = (Cluster::default(), wanted(&[("web", &[80])]));
    let reason: Arc<str> = "services is forbidden".into();
    cluster.failed = [(service_of("web"), Arc::clone(&reason))].into();
    let problem = cluster.plan(&wanted).gateways[&name("web")].problem.clone();
    assert_eq!(problem, Some(GatewayProblem::NotWritten(reason)));
    assert_eq!(
        cluster.settle(&wanted).gateways[&name("web")].problem,
        None,
        "it was written by another replica"
    );
}

#[test]
fn a_service_that_is_being_deleted_has_no_address() {
    let (mut cluster, wanted) = (Cluster::default(), wanted(&[("web", &[80])]));
    let plan = cluster.plan(&wanted);
    let [(service, ServiceChange::Apply { manifest, .. })] =
        &plan.due.into_iter().collect::<Vec<_>>()[..]
    else {
        panic!("one Service is due");
    };
    let mut object = manifest.object("hermes", service);
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    cluster.put(object);
    let plan = cluster.plan(&wanted);
    assert_eq!(plan.due, BTreeMap::new(), "it is applied when it is gone");
    assert_eq!(
        plan.gateways[&name("web")].problem,
        Some(GatewayProblem::Pending)
    );
}
