//! Where a pool's endpoints come from: static URLs, or Kubernetes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hermes_core::{
    address::{ServerAddress, ServerScheme},
    snapshot::Role,
};

use super::{
    MAX_ENDPOINTS,
    duration::{DAY, MINUTE, SECOND},
    key::ValueType,
    names::{is_dns_label, is_label_name, is_label_value, is_port_name},
    node::Node,
    section::{Reading, Section},
};
use crate::discovery::{EventPortNames, RoleNames};

/// Most labels in one selector.
const MAX_LABELS: usize = 64;

/// What endpoints may be.
const URLS: &str = "URLs such as http://10.0.0.7:8000";

/// What a selector may be.
const LABELS: &str = "label names and values, such as {app: vllm}";

/// Time between two full lists unless something else is configured.
const RESYNC: Duration = MINUTE.saturating_mul(5);

/// How long one response of the Kubernetes API may take.
const API_TIMEOUT: Duration = Duration::from_secs(10);

/// One source of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointSource {
    /// Each once, in the order of the file.
    Static(Vec<ServerAddress>),
    /// The same of endpoints with this role; those of all roles are one group.
    StaticRole(Role, Vec<ServerAddress>),
    /// The endpoints of Services with these labels.
    Services(KubernetesSelection),
    /// The endpoints of the Service of this name; the labels do not count.
    Service(Arc<str>, KubernetesSelection),
    /// The pods with these labels.
    Pods(KubernetesSelection),
}

/// What is selected in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSelection {
    /// Where to look; the namespace of the control plane if absent.
    pub namespace: Option<Arc<str>>,
    /// At least one; all have to match.
    pub labels: SelectorLabels,
    /// The port that serves inference.
    pub port: PortRef,
    /// Other ports of each pod that serve inference, each an endpoint of its own: data-parallel
    /// ranks. Services have none.
    pub further_ports: Vec<u16>,
    /// How the endpoints are spoken to; absent if their Service's port says it.
    pub scheme: Option<ServerScheme>,
    /// Time between two full lists.
    pub resync: Duration,
    /// How long one response of the Kubernetes API may take.
    pub timeout: Duration,
    /// The names by which ports for KV events are discovered; absent if they are not.
    pub event_ports: Option<EventPortNames>,
    /// How roles and groups are called, besides the known names.
    pub role_names: RoleNames,
}

/// Labels of a selector.
pub(crate) type SelectorLabels = BTreeMap<Arc<str>, Arc<str>>;

/// A port by its number or by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortRef {
    /// From 1 to 65535.
    Number(u16),
    /// At most 63 characters of a-z, 0-9 and `-`: what a Service allows; a container allows 15.
    Name(Arc<str>),
}

// === KubernetesSelection ===

impl KubernetesSelection {
    /// Port 8000 of endpoints of this scheme, without labels yet.
    pub(super) fn new(scheme: ServerScheme) -> Self {
        Self {
            namespace: None,
            labels: SelectorLabels::new(),
            port: PortRef::Number(8000),
            further_ports: Vec::new(),
            scheme: Some(scheme),
            resync: RESYNC,
            timeout: API_TIMEOUT,
            event_ports: None,
            role_names: RoleNames::default(),
        }
    }
}

// === EndpointSource ===

impl EndpointSource {
    /// Discovers ports for KV events too, if Kubernetes is the source.
    pub(super) fn discover_event_ports(&mut self, names: &EventPortNames) {
        if let Self::Services(selection) | Self::Service(_, selection) | Self::Pods(selection) =
            self
        {
            selection.event_ports = Some(names.clone());
        }
    }

    /// Finds roles and groups by these names too, if Kubernetes is the source.
    pub(super) fn name_roles(&mut self, names: &RoleNames) {
        if let Self::Services(selection) | Self::Service(_, selection) | Self::Pods(selection) =
            self
        {
            selection.role_names = names.clone();
        }
    }

    /// Whether any of the endpoints may be at an `https` address.
    pub(super) fn may_be_secured(&self) -> bool {
        match self {
            Self::Static(addresses) | Self::StaticRole(_, addresses) => {
                addresses.iter().any(ServerAddress::is_secured)
            }
            Self::Services(selection) | Self::Service(_, selection) => {
                selection.scheme != Some(ServerScheme::Http)
            }
            Self::Pods(selection) => selection.scheme == Some(ServerScheme::Https),
        }
    }

    /// The static addresses; none if Kubernetes is the source.
    pub fn static_addresses(&self) -> impl Iterator<Item = &ServerAddress> {
        let addresses: &[ServerAddress] = match self {
            Self::Static(addresses) | Self::StaticRole(_, addresses) => addresses,
            Self::Services(_) | Self::Service(..) | Self::Pods(_) => &[],
        };
        addresses.iter()
    }
}

/// The keys of a pool that name its endpoints.
pub(super) fn read(pool: &mut Section<'_>) -> Vec<EndpointSource> {
    let fixed = pool
        .texts(
            "endpoints",
            1..=MAX_ENDPOINTS,
            URLS,
            "Static endpoints: `http://host:port` or `https://host:port`, and a path that is put before \
             the path of every request. A pool needs `endpoints`, `kubernetes`, or both.",
            read_address,
            ServerAddress::to_string,
        )
        .or_unset("none");
    let found = pool.optional_section(
        "kubernetes",
        "Endpoints that are discovered in Kubernetes.",
        read_kubernetes,
    );
    let has_roles =
        pool.has_inside("disaggregation", "decode") || pool.has_inside("disaggregation", "both");
    if !pool.has("endpoints") && !pool.has("kubernetes") && !has_roles {
        pool.error(
            "endpoints",
            "missing",
            "set static URLs here, or `kubernetes`",
        );
    }
    let fixed = fixed.map(EndpointSource::Static);
    fixed.into_iter().chain(found.flatten()).collect()
}

/// A key with static endpoints of a role.
pub(super) fn read_role(
    section: &mut Section<'_>,
    name: &'static str,
    role: Role,
    meaning: &'static str,
) -> Option<EndpointSource> {
    let urls = section
        .texts(
            name,
            1..=MAX_ENDPOINTS,
            URLS,
            meaning,
            read_address,
            ServerAddress::to_string,
        )
        .or_unset("none");
    urls.map(|urls| EndpointSource::StaticRole(role, urls))
}

/// A list of static URLs by itself.
pub(super) fn read_urls(node: &Node<'_>) -> Option<EndpointSource> {
    let urls = node.distinct(
        &(1..=MAX_ENDPOINTS),
        URLS,
        read_address,
        ServerAddress::to_string,
    )?;
    Some(EndpointSource::Static(urls))
}

/// One static address.
fn read_address(node: &Node<'_>) -> Option<ServerAddress> {
    match ServerAddress::parse(node.text("a URL such as http://10.0.0.7:8000")?) {
        Ok(address) => {
            warn_version(node, &address);
            Some(address)
        }
        Err(error) => node.wrong(error.expected()),
    }
}

/// SDKs are given a URL that ends in `/v1`, which here would be in the path twice.
fn warn_version(node: &Node<'_>, address: &ServerAddress) {
    let base = address.base_path();
    if base.ends_with("/v1") {
        node.diagnostics().warn(format!(
            "{}: requests will go to {base}/v1/…; the path of a request begins with /v1 itself",
            node.path()
        ));
    }
}

fn read_kubernetes(section: &mut Section<'_>) -> Option<EndpointSource> {
    let namespace = namespace(section);
    let labels = |section: &mut Section<'_>, name, meaning| {
        let labels = labels(section, name, meaning).optional();
        section.has(name).then(|| labels.unwrap_or_default())
    };
    let services = labels(
        section,
        "services",
        "Labels of the Services whose endpoints are used. Either this or `pods`.",
    );
    let pods = labels(section, "pods", "Labels of the pods that are used.");
    let port =
        port(section, "port").required("set the port that serves inference, by number or by name");
    let selection = KubernetesSelection {
        namespace,
        labels: SelectorLabels::new(),
        port: port.unwrap_or(PortRef::Number(8000)),
        further_ports: Vec::new(),
        scheme: section
            .one_of(
                "scheme",
                &[
                    ("auto", None),
                    ("http", Some(ServerScheme::Http)),
                    ("https", Some(ServerScheme::Https)),
                ],
                "Scheme of the endpoints; `auto` is `https` if the `appProtocol` of the Service's port is, else `http`.",
            )
            .or(None),
        resync: section
            .duration(
                "resync",
                SECOND..=DAY,
                "Time between two full lists, in case a watch missed something.",
            )
            .or(RESYNC),
        timeout: api_timeout(section),
        event_ports: None,
        role_names: RoleNames::default(),
    };
    let found = match (services, pods) {
        (Some(labels), None) => {
            return Some(EndpointSource::Services(KubernetesSelection {
                labels,
                ..selection
            }));
        }
        (None, Some(labels)) => {
            return Some(EndpointSource::Pods(KubernetesSelection {
                labels,
                ..selection
            }));
        }
        (Some(_), Some(_)) => "set as well as `pods`",
        (None, None) => "missing, and so is `pods`",
    };
    section.error("services", found, "set the labels of one of the two");
    None
}

/// The key `namespace`.
pub(super) fn namespace(section: &mut Section<'_>) -> Option<Arc<str>> {
    section
        .text_where(
            "namespace",
            "a namespace's name: 1 to 63 characters of a-z, 0-9 and -",
            is_dns_label,
            "Namespace in which endpoints are discovered.",
        )
        .or_unset("the control plane's own")
}

/// The key `timeout` of a source in Kubernetes.
pub(super) fn api_timeout(section: &mut Section<'_>) -> Duration {
    section
        .duration(
            "timeout",
            SECOND / 10..=MINUTE * 10,
            "How long one response of the Kubernetes API may take.",
        )
        .or(API_TIMEOUT)
}

/// A key whose value is labels.
pub(super) fn labels<'s, 'a>(
    section: &'s mut Section<'a>,
    name: &'static str,
    meaning: &'static str,
) -> Reading<'s, 'a, SelectorLabels, impl Fn(&SelectorLabels) -> String> {
    let show = |labels: &SelectorLabels| {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        format!("{{{}}}", labels.join(", "))
    };
    let value_type = ValueType::Map("a mapping of label names to values");
    section.value(name, value_type, meaning, read_labels, show)
}

/// The labels of a selector; what is wrong with them is recorded.
pub(crate) fn read_labels(node: &Node<'_>) -> Option<SelectorLabels> {
    let entries = node.entries(LABELS)?;
    if entries.len() > MAX_LABELS {
        return node.wrong(format!("expected at most {MAX_LABELS} labels"));
    }
    let mut labels = SelectorLabels::new();
    for (name, value) in entries {
        if !is_label_name(name) {
            let fix = "expected one such as app or app.kubernetes.io/name";
            value
                .diagnostics()
                .error(value.path(), "not a label's name", fix);
        }
        // A label may have the empty value, which is text that no other key allows.
        let text = if value.is_blank() {
            Some("")
        } else {
            value.text("a label's value")
        };
        let Some(text) = text else { continue };
        if is_label_value(text) {
            labels.insert(name.into(), text.into());
        } else {
            value.wrong::<()>(
                "expected a label's value: at most 63 characters of A-Z, a-z, 0-9, -, _ and .",
            );
        }
    }
    Some(labels)
}

/// The key of the port that serves inference.
pub(super) fn port<'s, 'a>(
    section: &'s mut Section<'a>,
    name: &'static str,
) -> Reading<'s, 'a, PortRef, impl Fn(&PortRef) -> String> {
    let show = |port: &PortRef| match port {
        PortRef::Number(number) => number.to_string(),
        PortRef::Name(name) => name.to_string(),
    };
    let meaning = "Port that serves inference, by number or by name.";
    section.value(name, ValueType::Port, meaning, read_port, show)
}

fn read_port(node: &Node<'_>) -> Option<PortRef> {
    if let Some(number) = node.port_number() {
        return Some(PortRef::Number(number));
    }
    let name = node.value().as_str().filter(|name| is_port_name(name));
    let fix = "expected a port from 1 to 65535, or a port's name: a-z, 0-9 and -, with a letter";
    name.map(|name| PortRef::Name(name.into()))
        .or_else(|| node.wrong(fix))
}
