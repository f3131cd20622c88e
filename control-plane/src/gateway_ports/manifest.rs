//! The Service of a Gateway as it should be. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use super::{GatewayName, WantedGateway};
use crate::config::{GatewayServiceConfig, ServiceReach};

/// The label that all Services of Gateways have, and its value.
pub(super) const MADE_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "hermes");

/// The label with the Gateway's name, as the Gateway API has it.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// The label with the Gateway's namespace.
const GATEWAY_NAMESPACE: &str = "hermes.ai/gateway-namespace";

/// The annotation with the Gateway, as `namespace/name`: labels hold no long names.
pub(super) const GATEWAY: &str = "hermes.ai/gateway";

/// The annotation with the controller of the Gateway.
pub(super) const CONTROLLER: &str = "hermes.ai/gateway-controller";

/// The annotation with a hash of all that was applied: it shows what is to be taken away.
pub(super) const DIGEST: &str = "hermes.ai/applied";

/// Longest name of a Service, and longest value of a label.
const LONGEST: usize = 63;

/// What this router states of a Service, or what one has of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceManifest {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) selector: BTreeMap<String, String>,
    /// The type, as Kubernetes names it.
    pub(super) reach: String,
    /// `targetPort` by `port`, all of TCP.
    pub(super) ports: BTreeMap<u16, u16>,
}

/// The name of a Gateway's Service. The hash keeps apart what a hyphen joins: `a-b/c` and `a/b-c`.
pub(super) fn service_name(gateway: &GatewayName) -> String {
    let GatewayName { namespace, name } = gateway;
    // A Gateway's name may have dots, and begin with a digit; a Service's may not.
    let readable = format!("{namespace}-{name}").replace('.', "-");
    let first = readable.chars().next();
    let prefix = match first.is_some_and(|first| first.is_ascii_lowercase()) {
        true => "",
        false => "gateway-",
    };
    shortened(&format!("{prefix}{readable}"), &gateway.to_string())
}

/// `text` with a hash of `whole` behind it, in 63 bytes.
fn shortened(text: &str, whole: &str) -> String {
    let hash = xxh3_64(whole.as_bytes()) >> 32;
    // Both are ASCII.
    let kept = text.get(..LONGEST - 9).unwrap_or(text);
    format!("{}-{hash:08x}", kept.trim_end_matches('-'))
}

// === ServiceManifest ===

impl ServiceManifest {
    /// The Service of a Gateway of `controller`, whose ports lead to these ports of the proxies.
    pub(super) fn of(
        (name, gateway): (&GatewayName, &WantedGateway),
        controller: &str,
        service: &GatewayServiceConfig,
        ports: BTreeMap<u16, u16>,
    ) -> Self {
        let GatewayServiceConfig {
            reach,
            selector,
            annotations,
            ..
        } = service;
        let label = match name.name.len() {
            0..=LONGEST => name.name.to_string(),
            _ => shortened(&name.name, &name.name),
        };
        let own = [
            (MADE_BY.0, MADE_BY.1.to_owned()),
            (GATEWAY_NAME, label),
            (GATEWAY_NAMESPACE, name.namespace.to_string()),
        ];
        let mut labels = gateway.labels.clone();
        labels.extend(own.map(|(key, value)| (key.to_owned(), value)));

        // The operator's win: they may say who reaches the load balancer.
        let mut all = gateway.annotations.clone();
        all.extend(texts(annotations));
        all.insert(GATEWAY.to_owned(), name.to_string());
        all.insert(CONTROLLER.to_owned(), controller.to_owned());
        let mut manifest = Self {
            labels,
            annotations: all,
            selector: texts(selector),
            reach: reach.name().to_owned(),
            ports,
        };
        let digest = xxh3_64(manifest.object("", "").to_string().as_bytes());
        manifest
            .annotations
            .insert(DIGEST.to_owned(), format!("{digest:016x}"));
        manifest
    }

    /// Whether `other` has all of this. It may have more, which others have added.
    pub(super) fn is_in(&self, other: &Self) -> bool {
        let Self {
            labels,
            annotations,
            selector,
            reach,
            ports,
        } = self;
        let texts = [
            (labels, &other.labels),
            (annotations, &other.annotations),
            (selector, &other.selector),
        ];
        texts.iter().all(|(own, other)| is_subset(own, other))
            && *reach == other.reach
            && is_subset(ports, &other.ports)
    }

    /// What is applied: the object with these names.
    pub(super) fn object(&self, namespace: &str, name: &str) -> Value {
        let Self {
            labels,
            annotations,
            selector,
            reach,
            ports,
        } = self;
        let port = |(port, target): (&u16, &u16)| {
            json!({
                "name": format!("port-{port}"),
                "port": port,
                "targetPort": target,
                "protocol": "TCP",
            })
        };
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "namespace": namespace,
                "name": name,
                "labels": labels,
                "annotations": annotations,
            },
            "spec": {
                "type": reach,
                "selector": selector,
                "ports": ports.iter().map(port).collect::<Vec<Value>>(),
            },
        })
    }

    /// Whether a load balancer is to give its address.
    pub(super) fn awaits_load_balancer(&self) -> bool {
        self.reach == ServiceReach::LoadBalancer.name()
    }
}

fn texts<K: ToString, V: ToString>(map: &BTreeMap<K, V>) -> BTreeMap<String, String> {
    let texts = map.iter();
    texts
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

fn is_subset<K: Ord, V: PartialEq>(part: &BTreeMap<K, V>, all: &BTreeMap<K, V>) -> bool {
    part.iter().all(|(key, value)| all.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gateway_ports::fixture::{config, gateway, name};

    #[test]
    fn names_of_two_gateways_differ_however_their_parts_join() {
        let joined = [("a-b", "c"), ("a", "b-c"), ("a", "b.c")];
        let names = joined.map(|(namespace, name)| {
            service_name(&GatewayName {
                namespace: namespace.into(),
                name: name.into(),
            })
        });
        assert!(names.iter().all(|name| name.starts_with("a-b-c-")));
        let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), 3, "{names:?}");
    }

    #[test]
    fn a_service_has_what_the_gateway_says_and_the_configuration_wins_and_its_own_labels_do() {
        let mut wanted = gateway(&[80]);
        wanted.labels = [(MADE_BY.0.to_owned(), "me".to_owned())].into();
        wanted.annotations = [("tier".to_owned(), "gold".to_owned())].into();
        let mut config = config();
        config.annotations = [("tier".into(), "tin".into()), ("zone".into(), "b".into())].into();
        let manifest = ServiceManifest::of(
            (&name("web"), &wanted),
            "hermes.ai/gateway",
            &config,
            [(80, 20_001)].into(),
        );
        let object = manifest.object("hermes", "web");
        let metadata = &object["metadata"];
        assert_eq!(metadata["labels"][MADE_BY.0], "hermes");
        assert_eq!(metadata["labels"][GATEWAY_NAME], "web");
        assert_eq!(metadata["labels"][GATEWAY_NAMESPACE], "ai");
        assert_eq!(metadata["annotations"]["tier"], "tin");
        assert_eq!(metadata["annotations"]["zone"], "b");
        assert_eq!(object["spec"]["selector"]["app"], "proxy");
        assert_eq!(
            object["spec"]["ports"],
            json!([{"name": "port-80", "port": 80, "targetPort": 20_001, "protocol": "TCP"}])
        );
    }

    #[test]
    fn what_others_add_is_no_difference_and_what_was_taken_away_is_one() {
        let manifest = |gateway: &WantedGateway| {
            ServiceManifest::of(
                (&name("web"), gateway),
                "c",
                &config(),
                [(80, 20_001)].into(),
            )
        };
        let mut labelled = gateway(&[80]);
        labelled.labels = [("tier".to_owned(), "gold".to_owned())].into();
        let (bare, labelled) = (manifest(&gateway(&[80])), manifest(&labelled));
        let mut added = bare.clone();
        added.annotations.insert("cloud".into(), "x".into());
        assert!(bare.is_in(&added));
        assert!(!added.is_in(&bare));
        assert!(!labelled.is_in(&bare));
        assert!(!bare.is_in(&labelled), "the label is to be taken away");
    }

    proptest! {
        #[test]
        fn every_name_is_one_of_a_service(
            namespace in "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
            name in "[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?){0,3}",
        ) {
            let name = service_name(&GatewayName { namespace: namespace.into(), name: name.into() });
            prop_assert!(name.len() <= LONGEST, "{name}");
            prop_assert!(name.starts_with(|first: char| first.is_ascii_lowercase()), "{name}");
            let is_known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            prop_assert!(name.chars().all(is_known), "{name}");
        }
    }
}
