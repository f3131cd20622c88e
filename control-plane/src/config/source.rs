//! Where a pool's endpoints come from: static URLs, or Kubernetes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    MAX_ENDPOINTS,
    address::Address,
    reader::{Fields, Node},
    sections::KUBERNETES,
};
use crate::discovery::EventPortNames;

/// Most labels in one selector.
const MAX_LABELS: usize = 64;

/// One origin of endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Base URLs, `http://host:port` without a trailing slash; each once, in the order of the file.
    Static(Vec<Arc<str>>),
    /// The endpoints of Services with these labels.
    Services(Selection),
    /// The pods with these labels.
    Pods(Selection),
}

/// What is selected in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Where to look; nothing is the namespace that the control plane runs in.
    pub namespace: Option<Arc<str>>,
    /// At least one; all have to match.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// The port that serves inference.
    pub port: Port,
    /// How often everything is listed again.
    pub resync: Duration,
    /// How long one answer of the Kubernetes API may take.
    pub timeout: Duration,
    /// Whether ports for KV events are looked for, and by which names; see `kvEvents` of the pool.
    pub event_ports: Option<EventPortNames>,
}

/// A port by its number or by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// From 1 to 65535.
    Number(u16),
    /// At most 63 characters of a-z, 0-9 and `-`: what a Service allows; a container allows 15.
    Name(Arc<str>),
}

// === Source ===

impl Source {
    /// Looks for ports for KV events, too, where Kubernetes is asked.
    pub(super) fn find_event_ports(&mut self, names: &EventPortNames) {
        if let Self::Services(selection) | Self::Pods(selection) = self {
            selection.event_ports = Some(names.clone());
        }
    }

    /// The static URLs; none when Kubernetes is asked.
    pub fn static_urls(&self) -> impl Iterator<Item = &str> {
        let urls: &[Arc<str>] = match self {
            Self::Static(urls) => urls,
            Self::Services(_) | Self::Pods(_) => &[],
        };
        urls.iter().map(|url| &**url)
    }
}

/// The list `endpoints`.
pub(super) fn read_endpoints(node: &Node<'_>) -> Option<Source> {
    let items = node.items(1, MAX_ENDPOINTS, "URLs such as http://10.0.0.7:8000")?;
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut urls = Vec::with_capacity(items.len());
    for item in &items {
        let Some(url) = read_endpoint(item) else {
            continue;
        };
        if seen.insert(url.clone()) {
            urls.push(url.into());
        } else {
            item.wrong::<()>("leave it out: it is in the list already");
        }
    }
    Some(Source::Static(urls))
}

/// One static URL, with its port written out and without a slash at the end.
fn read_endpoint(node: &Node<'_>) -> Option<String> {
    match Address::parse(node.text("a URL such as http://10.0.0.7:8000")?) {
        Err(refused) => node.wrong(refused.to_string()),
        Ok(Address {
            host,
            port,
            path: "" | "/",
        }) => Some(format!("http://{host}:{}", port.unwrap_or(80))),
        Ok(Address {
            host,
            port,
            path: _,
        }) => node.wrong(format!(
            "leave out the path: http://{host}:{}",
            port.unwrap_or(80)
        )),
    }
}

/// The mapping `kubernetes`.
pub(super) fn read_kubernetes(node: &Node<'_>) -> Option<Source> {
    let fields = node.fields(&KUBERNETES)?;
    let namespace = read_namespace(&fields);
    let port = fields.node("port");
    if port.is_none() {
        fields.missing(
            "port",
            "give the port that serves inference, by number or by name",
        );
    }
    let selection = Selection {
        namespace,
        labels: BTreeMap::new(),
        port: port
            .and_then(|node| read_port(&node))
            .unwrap_or(Port::Number(8000)),
        resync: fields
            .duration("resync")
            .unwrap_or(Duration::from_secs(300)),
        timeout: fields
            .duration("timeout")
            .unwrap_or(Duration::from_secs(10)),
        event_ports: None,
    };
    let labels_of = |name| Some(read_labels(&fields.node(name)?).unwrap_or_default());
    match (labels_of("services"), labels_of("pods")) {
        (Some(labels), None) => Some(Source::Services(Selection {
            labels,
            ..selection
        })),
        (None, Some(labels)) => Some(Source::Pods(Selection {
            labels,
            ..selection
        })),
        (services, _) => {
            let found = if services.is_some() {
                "both this and `pods`"
            } else {
                "missing, and `pods` too"
            };
            fields.mistake("services", found, "give the labels of one of the two");
            None
        }
    }
}

pub(super) fn read_namespace(fields: &Fields<'_>) -> Option<Arc<str>> {
    let name = fields.text("namespace")?;
    if !is_dns_label(name, 63) {
        return fields
            .node("namespace")?
            .wrong("give a namespace's name: 1 to 63 characters of a-z, 0-9 and -");
    }
    Some(name.into())
}

pub(super) fn read_labels(node: &Node<'_>) -> Option<BTreeMap<Arc<str>, Arc<str>>> {
    let fix = "give label names and values, such as {app: vllm}";
    let entries = node.entries(fix)?;
    if entries.len() > MAX_LABELS {
        return node.wrong(format!("give at most {MAX_LABELS} labels"));
    }
    let mut labels = BTreeMap::new();
    for (name, value) in entries {
        if !is_label_name(name) {
            value.mistake(
                value.path(),
                "not a label's name",
                "give one such as app or app.kubernetes.io/name",
            );
        }
        // A label may have the empty value, which is text that no other key allows.
        let Some(text) = (if value.is_blank() {
            Some("")
        } else {
            value.text("a label's value")
        }) else {
            continue;
        };
        if is_label_value(text) {
            labels.insert(name.into(), text.into());
        } else {
            value.wrong::<()>(
                "give a label's value: at most 63 characters of A-Z, a-z, 0-9, -, _ and .",
            );
        }
    }
    Some(labels)
}

pub(super) fn read_port(node: &Node<'_>) -> Option<Port> {
    let fix = "give a port from 1 to 65535, or a port's name: a-z, 0-9 and -, with a letter";
    if let Some(number) = node.port_number() {
        return Some(Port::Number(number));
    }
    if !node.is_text() {
        return node.wrong(fix);
    }
    let name = node.text("a port from 1 to 65535, or a port's name")?;
    if !is_port_name(name) {
        return node.wrong(fix);
    }
    Some(Port::Name(name.into()))
}

/// RFC 6335, as long as a Service allows.
pub(super) fn is_port_name(name: &str) -> bool {
    name.bytes().any(|b| b.is_ascii_lowercase()) && is_dns_label(name, 63)
}

/// RFC 1123 as Kubernetes applies it to names.
pub(super) fn is_dns_label(name: &str, max: usize) -> bool {
    let known = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    known && (1..=max).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-')
}

/// `name` or `prefix/name`:
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set>.
fn is_label_name(text: &str) -> bool {
    let (prefix, name) = text
        .split_once('/')
        .map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let prefix = prefix.is_none_or(|prefix| {
        prefix.len() <= 253 && prefix.split('.').all(|part| is_dns_label(part, 63))
    });
    prefix && !name.is_empty() && is_label_value(name)
}

fn is_label_value(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let known = bytes
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    known && bytes.len() <= 63 && edge(bytes.first()) && edge(bytes.last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_names_may_have_a_prefix_and_values_may_be_empty() {
        assert!(
            is_label_name("app")
                && is_label_name("app.kubernetes.io/name")
                && is_label_name("openfuyao.com/pdRole")
        );
        assert!(
            !is_label_name("")
                && !is_label_name("a/b/c")
                && !is_label_name("-a")
                && !is_label_name("A.b/c")
        );
        assert!(
            is_label_value("")
                && is_label_value("v1.2_x")
                && !is_label_value("a b")
                && !is_label_value("a-")
        );
    }
}
