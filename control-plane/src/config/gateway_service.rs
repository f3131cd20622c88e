//! How the Services of Gateways are made: the mapping `service` of `gatewayApi`.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use super::{
    key::ValueType,
    names::{is_dns_label, is_label_name},
    node::Node,
    section::Section,
    source::{self, SelectorLabels},
};

/// Most ports of the proxies for Gateways: each is a socket of every worker.
const MAX_PORTS: usize = 4_096;

/// Most annotations.
const MAX_ANNOTATIONS: usize = 64;

/// Longest value of an annotation, in bytes.
const MAX_ANNOTATION: usize = 4_096;

/// The proxies' ports for Gateways unless something else is configured: below those that systems
/// take for connections and those of Services of the type `NodePort`.
const PORTS: RangeInclusive<u16> = 20_000..=20_999;

/// What a range of ports may be.
const RANGE: &str = "two ports, such as 20000-20999, with at most 4096 from the first to the last";

/// What annotations may be.
const ANNOTATIONS: &str = "names and values of annotations, such as {example.com/tier: internal}";

/// How the Services of Gateways are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayServiceConfig {
    /// Where they are made, which is where the proxies run; the control plane's own namespace if
    /// absent.
    pub namespace: Option<Arc<str>>,
    /// How they are reached.
    pub reach: ServiceReach,
    /// Labels of the proxies' pods.
    pub selector: BTreeMap<Arc<str>, Arc<str>>,
    /// Annotations of each.
    pub annotations: BTreeMap<Arc<str>, Arc<str>>,
    /// The proxies' ports that may be used.
    pub ports: RangeInclusive<u16>,
}

/// The type of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceReach {
    /// From inside of the cluster.
    ClusterIp,
    /// By a port of every node.
    NodePort,
    /// By a load balancer of the cloud.
    LoadBalancer,
}

// === ServiceReach ===

impl ServiceReach {
    /// The type as Kubernetes names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

// === Reading ===

/// The mapping `service`.
pub(super) fn read(section: &mut Section<'_>) -> GatewayServiceConfig {
    let namespace = section
        .text_where(
            "namespace",
            "a namespace's name: 1 to 63 characters of a-z, 0-9 and -",
            is_dns_label,
            "Namespace of the proxies, in which a Service is made for each Gateway.",
        )
        .or_unset("the control plane's own");
    let reaches = [
        ServiceReach::ClusterIp,
        ServiceReach::NodePort,
        ServiceReach::LoadBalancer,
    ]
    .map(|reach| (reach.name(), reach));
    let reach = section
        .one_of("type", &reaches, "Type of these Services.")
        .or(ServiceReach::LoadBalancer);
    let selector = source::labels(section, "selector", "Labels of the proxies' pods.")
        .required("set the labels of the proxies' pods, such as {app: hermes-data-plane}");
    let annotations = section
        .value(
            "annotations",
            ValueType::Map("a mapping of names to values"),
            "Annotations of each of these Services, such as those that a cloud's load balancer reads. Those of a Gateway's `infrastructure` are added, if they have other names.",
            read_annotations,
            |_: &SelectorLabels| String::new(),
        )
        .or_unset("none");
    let ports = section
        .value(
            "portRange",
            ValueType::Text(RANGE),
            "Ports of the proxies that are used for Gateways: one for each port of each Gateway.",
            |node| {
                read_range(node.text(RANGE)?).or_else(|| node.wrong(format!("expected {RANGE}")))
            },
            |ports: &RangeInclusive<u16>| format!("{}-{}", ports.start(), ports.end()),
        )
        .or(PORTS);
    GatewayServiceConfig {
        namespace,
        reach,
        selector: selector.unwrap_or_default(),
        annotations: annotations.unwrap_or_default(),
        ports,
    }
}

/// Two ports, of which the second is not the lower one.
fn read_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let port = |text: &str| text.trim().parse().ok().filter(|port| *port != 0);
    let range = port(first)?..=port(last)?;
    (1..=MAX_PORTS)
        .contains(&range.clone().count())
        .then_some(range)
}

fn read_annotations(node: &Node<'_>) -> Option<BTreeMap<Arc<str>, Arc<str>>> {
    let entries = node.entries(ANNOTATIONS)?;
    if entries.len() > MAX_ANNOTATIONS {
        return node.wrong(format!("expected at most {MAX_ANNOTATIONS} annotations"));
    }
    let mut annotations = BTreeMap::new();
    for (name, value) in entries {
        let text = value.text("an annotation's value")?;
        if !is_label_name(name) || text.len() > MAX_ANNOTATION {
            return value.wrong(format!("expected {ANNOTATIONS}"));
        }
        annotations.insert(name.into(), text.into());
    }
    Some(annotations)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::diagnostics::Diagnostics, *};

    fn read_value(value: &Value) -> (Option<GatewayServiceConfig>, String) {
        let diagnostics = Diagnostics::default();
        let node = Node::new(value, "service", &diagnostics);
        let config = Section::read(&node, read);
        (config, diagnostics.into_errors().to_string())
    }

    #[test]
    fn a_selector_is_enough() {
        let (config, errors) = read_value(&json!({"selector": {"app": "proxy"}}));
        assert_eq!(errors, "");
        let config = config.expect("it is right");
        assert_eq!(config.ports, PORTS);
        assert_eq!(config.reach, ServiceReach::LoadBalancer);
        assert_eq!(config.namespace, None);
    }

    #[test]
    fn each_key_that_is_wrong_is_named_with_what_would_be_right() {
        let (_, errors) = read_value(&json!({
            "type": "ExternalName",
            "annotations": {"a b": "c"},
            "portRange": "20000",
        }));
        for expected in [
            "service.selector: missing",
            "service.type",
            "LoadBalancer",
            "service.annotations",
            "service.portRange",
            "20000-20999",
        ] {
            assert!(errors.contains(expected), "{expected}: {errors}");
        }
    }

    #[test]
    fn a_range_is_two_ports_in_order_and_not_too_far_apart() {
        assert_eq!(read_range("1-1"), Some(1..=1));
        assert_eq!(read_range("100 - 4195"), Some(100..=4_195));
        for wrong in ["", "0-5", "5-4", "100-4196", "1-70000", "1", "a-b", "1-2-3"] {
            assert_eq!(read_range(wrong), None, "{wrong}");
        }
    }
}
