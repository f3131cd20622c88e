use std::collections::BTreeMap;

use hermes_core::{
    inference_pool::{PickerFailure, PickerReference},
    route::{BackendTarget, PathMatch},
};
use k8s_openapi::api::core::v1::ServiceSpec;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::gateway_api::{
    backend::{BackendPool, BackendService, OtherPicker},
    gateway::{GatewaySpec, LabelMap},
    http_route::HttpRouteSpec,
    reference_grant::ReferenceGrantSpec,
    status::AssignedAddress,
};

mod conformance;
mod listeners;
mod routes;

/// What tests begin with: a class, and a Gateway of it that takes routes of all namespaces.
const BASE: &str = "
kind: GatewayClass
metadata: {name: hermes}
spec: {controllerName: hermes.ai/gateway}
---
kind: Gateway
metadata: {name: primary, namespace: infra}
spec:
  gatewayClassName: hermes
  listeners:
  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
---
kind: Service
metadata: {name: web, namespace: app}
spec: {ports: [{port: 8080}]}
";

/// Objects as files have them. Each Gateway gets a port of the proxies for each of its own, unless it
/// is named `pending`.
#[derive(Default)]
struct Scene {
    objects: Vec<Value>,
    certificates: CertificateFacts,
    room: Option<GatewayRoom>,
}

/// Every object, read.
#[derive(Default)]
struct ReadObjects {
    classes: BTreeMap<String, GatewayClassSpec>,
    gateways: BTreeMap<NamespacedName, GatewaySpec>,
    routes: BTreeMap<NamespacedName, HttpRouteSpec>,
    grants: Vec<(String, ReferenceGrantSpec)>,
    namespaces: BTreeMap<String, LabelMap>,
    services: BTreeMap<NamespacedName, BackendService>,
    pools: BTreeMap<NamespacedName, BackendPool>,
}

// === Scene ===

impl Scene {
    /// The objects of [`BASE`] and these.
    fn new(yaml: &str) -> Self {
        Self::default().and(BASE).and(yaml)
    }

    fn and(mut self, yaml: &str) -> Self {
        let documents = yaml.split("\n---").filter(|text| !text.trim().is_empty());
        let parsed = documents.map(|text| serde_saphyr::from_str::<Value>(text).expect(text));
        self.objects.extend(parsed);
        self
    }

    /// Without the objects of this kind and name.
    fn without(mut self, kind: &str, name: &str) -> Self {
        let before = self.objects.len();
        self.objects
            .retain(|object| object["kind"] != kind || object["metadata"]["name"] != name);
        assert!(self.objects.len() < before, "there is no {kind} {name}");
        self
    }

    fn compile(&self) -> CompiledGateways {
        let read = ReadObjects::of(&self.objects);
        let created = |kind: &str, name: &str| {
            let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
            let object = self.objects.iter().find(is)?;
            let text = object["metadata"]["creationTimestamp"].as_str()?;
            text.parse().ok()
        };
        let assigned = read.gateways.iter().enumerate().filter_map(assign);
        let objects = GatewayObjects {
            classes: (read.classes.iter())
                .map(|(name, spec)| (&**name, versioned(spec, None)))
                .collect(),
            gateways: (read.gateways.iter())
                .map(|(name, spec)| {
                    (
                        name.clone(),
                        versioned(spec, created("Gateway", &name.name)),
                    )
                })
                .collect(),
            routes: (read.routes.iter())
                .map(|(name, spec)| {
                    let created = created("HTTPRoute", &name.name);
                    (name.clone(), versioned(spec, created))
                })
                .collect(),
            grants: (read.grants.iter())
                .map(|(namespace, spec)| (&**namespace, spec))
                .collect(),
            namespaces: (read.namespaces.iter())
                .map(|(name, labels)| (&**name, labels))
                .collect(),
            services: (read.services.iter())
                .map(|(name, service)| (name.clone(), service))
                .collect(),
            pools: Some(read.pools.clone()),
        };
        let room = self.room.unwrap_or(GatewayRoom {
            listeners: 64,
            routes: 1_000,
            patterns: 256,
            services: 100,
        });
        let context = GatewayContext {
            controller: "hermes.ai/gateway",
            assigned: &assigned.collect(),
            certificates: &self.certificates,
            room,
        };
        compile(&objects, &context)
    }

    /// Where the requests of each rule go, as `route: path -> backends`.
    fn rules(&self) -> Vec<String> {
        let compiled = self.compile();
        let rules = compiled.routes.iter().flat_map(|route| {
            let name = &route.name;
            route.rules.iter().map(move |rule| {
                let path = match rule.matches.first().map(|one| &one.path) {
                    Some(PathMatch::Prefix(path)) => &**path,
                    other => panic!("{other:?}"),
                };
                let target = |target: &BackendTarget| match target {
                    BackendTarget::Pool(pool) => pool.to_string(),
                    BackendTarget::Invalid => "500".to_owned(),
                };
                let backends = rule.backends.iter();
                let backends: Vec<String> = backends
                    .map(|backend| format!("{}*{}", target(&backend.target), backend.weight))
                    .collect();
                format!("{name}: {path} -> {}", backends.join(" + "))
            })
        });
        rules.collect()
    }

    /// The conditions of a route at its parents.
    fn route(&self, name: &str) -> Vec<String> {
        let name = NamespacedName::new("app", name);
        shown(self.compile().route_parents.get(&name))
    }

    /// The conditions of a pool at its Gateways.
    fn pool(&self, name: &str) -> Vec<String> {
        let name = NamespacedName::new("app", name);
        shown(self.compile().pool_parents.get(&name))
    }

    /// The conditions of a listener of the Gateway `infra/primary`, after its routes.
    fn listener(&self, name: &str) -> String {
        let gateway = NamespacedName::new("infra", "primary");
        let compiled = self.compile();
        let status = &compiled.gateway_statuses[&gateway];
        let listener = status.listeners.iter().find(|one| &*one.name == name);
        let listener = listener.expect("a listener of this name");
        format!("{} {}", listener.attached, conditions(&listener.conditions))
    }

    /// The conditions of a Gateway of the namespace `infra`.
    fn gateway(&self, name: &str) -> String {
        let compiled = self.compile();
        let status = &compiled.gateway_statuses[&NamespacedName::new("infra", name)];
        conditions(&status.conditions)
    }
}

/// Each entry, as `parent: condition, …`; a condition that is true for the reason of its own name is
/// its name.
fn shown(entries: Option<&ParentEntries>) -> Vec<String> {
    let entry = |(parent, list): &(ParentReference, ConditionList)| {
        let parent = match parent {
            ParentReference::OfRoute(parent) => parent.name.to_string(),
            ParentReference::Gateway(name) => name.to_string(),
        };
        format!("{parent}: {}", conditions(list))
    };
    entries.into_iter().flatten().map(entry).collect()
}

fn conditions(list: &ConditionList) -> String {
    let condition = |one: &StatusCondition| match (one.is_true, one.form == one.reason) {
        (true, true) => one.form.to_owned(),
        (true, false) => format!("{}={}", one.form, one.reason),
        (false, _) => format!("{}!={}", one.form, one.reason),
    };
    let list: Vec<String> = list.conditions.iter().map(condition).collect();
    list.join(" ")
}

fn versioned<T>(spec: &T, created: Option<jiff::Timestamp>) -> Versioned<'_, T> {
    Versioned {
        spec,
        generation: 1,
        created,
    }
}

/// The ports of the proxies for the Gateway at this position.
fn assign(
    (position, (name, spec)): (usize, (&NamespacedName, &GatewaySpec)),
) -> Option<(NamespacedName, AssignedGateway)> {
    let first = 20_000 + u16::try_from(position).ok()? * 100;
    let ports = spec.listeners.iter().zip(first..);
    let assigned = AssignedGateway {
        ports: ports.map(|(one, port)| (one.port, port)).collect(),
        addresses: Ok(vec![AssignedAddress {
            form: "IPAddress",
            value: "10.0.0.1".into(),
        }]),
    };
    (&*name.name != "pending").then(|| (name.clone(), assigned))
}

// === ReadObjects ===

impl ReadObjects {
    fn of(objects: &[Value]) -> Self {
        let mut read = Self::default();
        for object in objects {
            read.add(object);
        }
        read
    }

    fn add(&mut self, object: &Value) {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        let (namespace, name) = (text("namespace"), text("name"));
        let at = NamespacedName::new(namespace, name);
        match object["kind"].as_str().unwrap_or_default() {
            "GatewayClass" => _ = self.classes.insert(name.to_owned(), spec(object)),
            "Gateway" => _ = self.gateways.insert(at, spec(object)),
            "HTTPRoute" => _ = self.routes.insert(at, spec(object)),
            "ReferenceGrant" => self.grants.push((namespace.to_owned(), spec(object))),
            "Namespace" => {
                let labels = serde_json::from_value(object["metadata"]["labels"].clone());
                let labels = labels.expect("labels");
                self.namespaces.insert(name.to_owned(), labels);
            }
            "Service" => {
                let spec: ServiceSpec = spec(object);
                self.services.insert(at, BackendService::new(&spec));
            }
            "InferencePool" => _ = self.pools.insert(at, pool(namespace, object)),
            other => panic!("{other}"),
        }
    }
}

fn spec<T: DeserializeOwned>(object: &Value) -> T {
    serde_json::from_value(object["spec"].clone()).expect("a specification")
}

/// A pool. Its picker is another router's, if it names one.
fn pool(namespace: &str, object: &Value) -> BackendPool {
    let reference = &object["spec"]["endpointPickerRef"];
    let service = reference["name"].as_str().map(|service| PickerReference {
        namespace: namespace.into(),
        service: service.into(),
        port: 9002,
    });
    BackendPool {
        generation: 1,
        other_picker: service.map(|service| OtherPicker {
            service,
            on_failure: if reference["failureMode"] == json!("FailOpen") {
                PickerFailure::Open
            } else {
                PickerFailure::Close
            },
        }),
    }
}
