//! Reads an `InferencePool`, of either group: each has its own names for the same fields.
//!
//! | field | `inference.networking.k8s.io/v1` | `inference.networking.x-k8s.io/v1alpha2` |
//! |---|---|---|
//! | labels of the pods | `selector.matchLabels` | `selector` |
//! | ports | `targetPorts[].number` | `targetPortNumber` |
//! | picker | `endpointPickerRef`, `port.number` | `extensionRef`, `portNumber` |
//!
//! Both forms are read from both groups. Without labels or ports there is no pool; anything else
//! that is wrong is recorded and left out.

use std::{collections::BTreeMap, sync::Arc};

use hermes_core::inference_pool::{PickerFailure, PickerReference};

use crate::config::{Diagnostics, EngineKind, Node, SelectorLabels, read_labels};

/// Most ports of a pod, as the definition has it.
const MAX_PORTS: usize = 8;

/// Where a picker listens if nothing else is said.
const PICKER_PORT: u16 = 9002;

/// Groups of the annotations, strongest first.
const PREFIXES: [&str; 2] = [
    "inference.networking.x-k8s.io",
    "inference.networking.k8s.io",
];

/// What a pool's object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InferencePool {
    /// At least one.
    pub(crate) labels: SelectorLabels,
    /// One to eight, each once, in the order of ranks.
    pub(crate) ports: Vec<u16>,
    /// By which Service gateways reach its picker, if it names one.
    pub(crate) picker: Option<PickerReference>,
    /// What gateways do when that names no endpoint.
    pub(crate) on_failure: PickerFailure,
    /// Its endpoints are spoken to over HTTP/2 without TLS.
    pub(crate) http2: bool,
    /// Whether an annotation asks for a strategy that reads caches.
    pub(crate) wants_prefix_cache: bool,
    /// The engine, if an annotation names it.
    pub(crate) engine: Option<EngineKind>,
}

/// Annotations of an object.
pub(super) type Annotations = BTreeMap<String, String>;

/// What the object `root` in this namespace says; `None` if it can be no pool.
pub(super) fn read(
    root: &Node<'_>,
    namespace: &str,
    annotations: Option<&Annotations>,
) -> Option<InferencePool> {
    let Some(spec) = root.field("spec") else {
        return root.lacks("spec", "every object of this kind has one");
    };
    let labels = read_selector(&spec);
    let ports = read_ports(&spec);
    let http2 = reads_http2(&spec);
    let picker = read_picker(&spec, namespace);
    let annotated = |name: &str| {
        let found = PREFIXES.iter().find_map(|prefix| {
            let key = format!("{prefix}/{name}");
            Some((annotations?.get(&key)?.as_str(), key))
        });
        found.map(|(value, key)| (value, format!("metadata.annotations[{key}]")))
    };
    Some(InferencePool {
        picker,
        on_failure: read_failure_mode(&spec),
        http2,
        wants_prefix_cache: annotated("routing-strategy").is_some_and(|(value, path)| {
            wants_prefix_cache(value).unwrap_or_else(|| {
                let fix = "expected PREFIX_CACHE or DEFAULT; the configured strategy is used";
                (root.diagnostics()).error(&path, format!("found `{value}`"), fix);
                false
            })
        }),
        engine: annotated("model-server-runtime").and_then(|(value, path)| {
            engine(value).or_else(|| {
                let fix = "expected vllm, sglang, trtllm, tgi, llamacpp or openai; the configured engine is used";
                (root.diagnostics()).error(&path, format!("found `{value}`"), fix);
                None
            })
        }),
        labels: labels?,
        ports: ports?,
    })
}

/// All labels or none: fewer would select more pods.
fn read_selector(spec: &Node<'_>) -> Option<SelectorLabels> {
    let Some(selector) = spec.field("selector") else {
        return spec.lacks("selector", "set the labels of the pods");
    };
    let nested = selector.field("matchLabels");
    let selector = nested
        .filter(|labels| labels.mapping().is_some())
        .unwrap_or(selector);
    let own = Diagnostics::default();
    let labels = read_labels(&Node::new(selector.value(), selector.path(), &own));
    let errors = own.into_errors();
    let is_right = errors.is_empty();
    for error in &errors {
        (spec.diagnostics()).error(&error.path, error.found.clone(), error.fix.clone());
    }
    labels.filter(|_| is_right)
}

/// The ports that can be used, each once; `None` if there is none.
fn read_ports(spec: &Node<'_>) -> Option<Vec<u16>> {
    if let Some(port) = spec.field("targetPortNumber") {
        return Some(vec![read_port(&port)?]);
    }
    let Some(list) = spec.field("targetPorts") else {
        return spec.lacks(
            "targetPorts",
            "set the ports of the pods that serve inference",
        );
    };
    let mut ports = Vec::new();
    for item in list.items(&(1..=MAX_PORTS), "ports")? {
        let Some(number) = item.field("number") else {
            item.lacks::<()>("number", "set a port from 1 to 65535");
            continue;
        };
        match read_port(&number) {
            Some(port) if ports.contains(&port) => {
                number.wrong::<()>("remove it: it is in the list already");
            }
            port => ports.extend(port),
        }
    }
    (!ports.is_empty()).then_some(ports)
}

fn read_port(node: &Node<'_>) -> Option<u16> {
    node.port_number()
        .or_else(|| node.wrong("expected a port from 1 to 65535"))
}

/// Whether endpoints are spoken to over HTTP/2 without TLS.
fn reads_http2(spec: &Node<'_>) -> bool {
    let Some(protocol) = spec.field("appProtocol") else {
        return false;
    };
    match protocol.value().as_str() {
        Some("http") => false,
        Some("kubernetes.io/h2c") => true,
        _ => {
            protocol.wrong::<()>("expected http or kubernetes.io/h2c; HTTP/1.1 is used");
            false
        }
    }
}

fn reference<'a>(spec: &Node<'a>) -> Option<Node<'a>> {
    spec.field("endpointPickerRef")
        .or_else(|| spec.field("extensionRef"))
}

fn read_failure_mode(spec: &Node<'_>) -> PickerFailure {
    let mode = reference(spec).and_then(|reference| reference.field("failureMode"));
    match mode.as_ref().map(|mode| mode.value().as_str()) {
        Some(Some("FailOpen")) => PickerFailure::Open,
        None | Some(Some("FailClose")) => PickerFailure::Close,
        Some(_) => {
            mode.and_then(|mode| {
                mode.wrong::<()>("expected FailOpen or FailClose; the latter is used")
            });
            PickerFailure::Close
        }
    }
}

fn read_picker(spec: &Node<'_>, namespace: &str) -> Option<PickerReference> {
    let reference = reference(spec)?;
    let is_service = ["group", "kind"]
        .into_iter()
        .zip(["", "Service"])
        .all(|(key, expected)| {
            let given = reference.field(key);
            given.is_none_or(|given| given.value().as_str() == Some(expected))
        });
    if !is_service {
        return reference.wrong("expected a Service: its `kind` Service, its `group` empty");
    }
    let Some(name) = reference.field("name") else {
        return reference.lacks("name", "set that of the picker's Service");
    };
    let service = name.text("a Service's name")?.into();
    let port = reference
        .field("port")
        .and_then(|port| port.field("number"))
        .or_else(|| reference.field("portNumber"));
    Some(PickerReference {
        namespace: Arc::from(namespace),
        service,
        port: port.map_or(Some(PICKER_PORT), |port| read_port(&port))?,
    })
}

/// What the annotation `routing-strategy` asks for; `None` if it is not understood.
fn wants_prefix_cache(value: &str) -> Option<bool> {
    match value {
        "PREFIX_CACHE" => Some(true),
        "DEFAULT" | "" => Some(false),
        _ => None,
    }
}

/// The engine that the annotation `model-server-runtime` names, by its names in gateways.
fn engine(value: &str) -> Option<EngineKind> {
    let known = EngineKind::ALL.into_iter().find(|(name, _)| *name == value);
    match value {
        "trt-llm" | "tensorrt-llm" | "triton-tensorrt-llm" | "trtllm-serve" => {
            Some(EngineKind::TrtLlm)
        }
        _ => known.map(|(_, engine)| engine),
    }
}

#[cfg(test)]
mod tests;
