//! Whether the objects of the Gateway API Inference Extension are configuration, which of them, and
//! what their pools have that no object says.
//!
//! An `InferencePool` names pods and ports. How requests are handled there (strategy, timeouts, KV
//! events, …) is the policy of this section, the same for all pools of objects.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use hermes_core::{
    address::ServerScheme,
    inference_pool::{AskedPicker, ModelPriority, Objective, PickerReference},
    policy::{EndpointTrust, KvAware, Strategy},
    rewrites::ModelRewrite,
};

use super::{
    engine::EngineKind,
    names::is_dns_label,
    node::Node,
    origin::{ConfigOrigin, ObjectReference},
    pool::{self, PoolFragment, PoolParts},
    section::Section,
    source::{self, EndpointSource, KubernetesSelection, PortRef, SelectorLabels},
};
use crate::discovery::RoleNames;

/// Namespaces that may be named one by one; more are watched as all.
const NAMESPACES: RangeInclusive<usize> = 1..=64;

/// Services that may be named.
const PICKERS: RangeInclusive<usize> = 1..=64;

/// What a Service's name may be here.
const SERVICE: &str = "a Service, as name or namespace/name";

/// What is configured for the pools of objects.
#[derive(Clone, Debug, PartialEq)]
pub struct InferencePoolsConfig {
    /// Where objects are looked for.
    pub namespaces: ObjectNamespaces,
    /// The Services by which gateways reach this router's pickers. If there are any, a pool whose
    /// picker is another Service is left to that one.
    pub pickers: Vec<PickerService>,
    /// Whether conditions are written into the status of objects.
    pub write_status: bool,
    /// How long one response of the Kubernetes API may take.
    pub timeout: Duration,
    /// Whose certificates endpoints must show, once the file that names them is read.
    pub trust: EndpointTrust,
    /// How endpoints are spoken to.
    scheme: ServerScheme,
    /// How roles and groups are called.
    role_names: RoleNames,
    /// What every pool has; without name, endpoints and models.
    policy: PoolParts,
}

/// Namespaces in which objects are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectNamespaces {
    /// The control plane's own.
    Own,
    /// These, each once.
    Named(Vec<Arc<str>>),
    /// All of the cluster.
    All,
}

/// A Service that an object may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PickerService {
    /// Its namespace; absent if it counts in every one.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
}

/// What an object says of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectPool {
    /// Labels of its pods, at least one.
    pub labels: SelectorLabels,
    /// The port of each pod that serves inference.
    pub port: u16,
    /// Other ports that do, each an endpoint of its own.
    pub further_ports: Vec<u16>,
    /// Whether a strategy is wanted that reads caches.
    pub wants_prefix_cache: bool,
    /// The engine behind the endpoints, if the object names it.
    pub engine: Option<EngineKind>,
    /// By which Services gateways reach its picker.
    pub pickers: Vec<PickerReference>,
    /// The picker of another router, which chooses its endpoints.
    pub asked_picker: Option<AskedPicker>,
    /// Its endpoints are spoken to over HTTP/2 without TLS.
    pub http2: bool,
    /// In order of precedence.
    pub rewrites: Vec<ModelRewrite>,
    /// In any order.
    pub priorities: Vec<ModelPriority>,
    /// In any order.
    pub objectives: Vec<Objective>,
}

// === InferencePoolsConfig ===

impl InferencePoolsConfig {
    /// The pool of an object, with this section's policy.
    #[must_use]
    pub fn fragment(&self, object: ObjectReference, pool: ObjectPool) -> PoolFragment {
        let ObjectPool {
            labels,
            port,
            further_ports,
            wants_prefix_cache,
            engine,
            pickers,
            asked_picker,
            http2,
            rewrites,
            priorities,
            objectives,
        } = pool;
        let ObjectReference {
            namespace, name, ..
        } = &object;
        let selection = KubernetesSelection {
            namespace: Some(Arc::clone(namespace)),
            labels,
            port: PortRef::Number(port),
            further_ports,
            timeout: self.timeout,
            role_names: self.role_names.clone(),
            ..KubernetesSelection::new(self.scheme)
        };
        let mut parts = PoolParts {
            name: pool_name(namespace, name),
            sources: vec![EndpointSource::Pods(selection)],
            pickers,
            asked_picker,
            http2,
            rewrites,
            priorities,
            objectives,
            ..self.policy.clone()
        };
        if let Some(engine) = engine {
            parts.collector = parts.collector.of_engine(parts.engine, engine);
            parts.engine = engine;
        }
        if wants_prefix_cache && !parts.policy.strategy.needs_prefix() {
            parts.policy.strategy = Strategy::KvAware(KvAware::default());
        }
        // What is the matter with the policy is recorded where it is configured.
        let (mut pool, _) = parts.check();
        pool.policy.trust = self.trust.clone();
        PoolFragment {
            origin: ConfigOrigin::Object(object),
            pool,
        }
    }

    /// The file with the authorities of endpoints, if there is one.
    pub(super) fn ca_file(&self) -> Option<&Arc<std::path::Path>> {
        self.policy.tls.as_ref()?.ca_file.as_ref()
    }

    /// The strategy of pools that ask for no other.
    #[must_use]
    pub fn strategy(&self) -> &Strategy {
        &self.policy.policy.strategy
    }
}

/// The name of an object's pool. No pool of the file has such a name, as theirs have no slash.
#[must_use]
pub fn pool_name(namespace: &str, name: &str) -> Arc<str> {
    format!("{namespace}/{name}").into()
}

// === PickerService ===

impl PickerService {
    /// Whether it is the Service of this name in this namespace.
    #[must_use]
    pub fn is(&self, namespace: &str, name: &str) -> bool {
        let own = self.namespace.as_deref();
        *self.name == *name && own.is_none_or(|own| own == namespace)
    }
}

impl std::fmt::Display for PickerService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

// === Reading ===

/// The mapping `inferencePools`; `None` when it is disabled.
pub(super) fn read(section: &mut Section<'_>) -> Option<InferencePoolsConfig> {
    let enabled = section
        .flag(
            "enabled",
            "Whether `InferencePool` objects, and those that refer to them, are pools: see [inference pools](inference-pools.md).",
        )
        .or(true);
    let namespaces = read_namespaces(section);
    let pickers = section
        .texts(
            "pickers",
            PICKERS,
            "Services, as name or namespace/name",
            "Services by which gateways reach this router's endpoint pickers. A pool that refers to another Service is left to that one.",
            read_picker,
            PickerService::to_string,
        )
        .or_unset("every pool is served")
        .unwrap_or_default();
    let write_status = section
        .flag(
            "writeStatus",
            "Whether conditions are written into the status of `InferenceModel`, `InferenceObjective` and `InferenceModelRewrite` objects.",
        )
        .or(true);
    let scheme = section
        .one_of(
            "scheme",
            &[("http", ServerScheme::Http), ("https", ServerScheme::Https)],
            "Scheme of the endpoints.",
        )
        .or(ServerScheme::Http);
    let timeout = source::api_timeout(section);
    let (policy, role_names) = section.section(
        "policy",
        "How requests of these pools are handled: the keys of [`pools[]`](#pools) that name neither models nor endpoints (`engine`, `lanes`, and those from `disaggregation` on).",
        |section| pool::section::read_policy(section, scheme),
    );
    enabled.then_some(InferencePoolsConfig {
        namespaces,
        pickers,
        write_status,
        timeout,
        trust: EndpointTrust::default(),
        scheme,
        role_names,
        policy,
    })
}

pub(super) fn read_namespaces(section: &mut Section<'_>) -> ObjectNamespaces {
    let named = section
        .texts(
            "namespaces",
            NAMESPACES,
            "namespaces",
            "Namespaces in which objects are looked for.",
            read_namespace,
            Arc::<str>::to_string,
        )
        .or_unset("the control plane's own");
    let all = section
        .flag(
            "allNamespaces",
            "Whether objects are looked for in all namespaces, which takes a ClusterRole.",
        )
        .or(false);
    match named {
        Some(_) if all => {
            let fix = "set only one of the two";
            section.error("allNamespaces", "set as well as `namespaces`", fix);
            ObjectNamespaces::All
        }
        Some(named) => ObjectNamespaces::Named(named),
        None if all => ObjectNamespaces::All,
        None => ObjectNamespaces::Own,
    }
}

fn read_namespace(node: &Node<'_>) -> Option<Arc<str>> {
    let name = node.text("a namespace's name")?;
    if !is_dns_label(name) {
        return node.wrong("expected 1 to 63 characters of a-z, 0-9 and -");
    }
    Some(name.into())
}

fn read_picker(node: &Node<'_>) -> Option<PickerService> {
    let text = node.text(SERVICE)?;
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    if !namespace.is_none_or(is_dns_label) || !is_dns_label(name) {
        return node.wrong(format!("expected {SERVICE}"));
    }
    Some(PickerService {
        namespace: namespace.map(Arc::from),
        name: name.into(),
    })
}

#[cfg(test)]
mod tests;
