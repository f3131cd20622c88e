//! The configuration file: YAML becomes checked values, or a list of every error in it.
//!
//! ```text
//!   text ──tree──▶ YAML values ──section by section──▶ PoolFragments, ProxySettings ──merge──▶ Config, warnings
//!                                       └────────────────────────────────────────└──────▶ ConfigErrors, each with its path
//! ```
//!
//! Invariants:
//! * a [`Config`] holds checked values only: nothing behind this module checks a range or parses a
//!   URL again;
//! * a key is written once, where it is read: name, type, range, default and meaning ([`section`]).
//!   The documentation and the chart's schema are generated from the same calls
//!   ([`reference`](mod@reference));
//! * an unknown key, a duplicate key and a value out of range are errors, never ignored;
//! * no input causes a panic, and input over [`MAX_BYTES`] is rejected before it is parsed.
//!
//! It does not read environment variables or command lines, and it does not reach any network.

mod app;
mod asked_picker;
mod collector;
mod conductor;
mod diagnostics;
mod disaggregation;
pub mod duration;
mod endpoint_tls;
mod engine;
mod error;
mod gateway_api;
mod gateway_service;
mod header;
pub mod inference_pools;
mod key;
mod kv_events;
mod kv_manager;
mod listener;
mod merge;
mod model_priorities;
mod names;
mod node;
mod objectives;
mod origin;
mod pickers;
mod policy;
mod pool;
pub mod reference;
mod rewrites;
mod route;
mod section;
mod service_pool;
mod settings;
mod size;
mod source;
mod strategy;
mod tenant;
mod tokenizer;
mod tree;
pub mod watch;

use std::sync::Arc;

use hermes_core::{
    collection::Collection,
    listener::Listener,
    policy::{PoolPolicy, ProxySettings},
    route::Route,
};
use serde_json::{Value, json};

pub use self::{
    collector::CollectorConfig,
    endpoint_tls::{AuthorityFiles, EndpointTlsConfig},
    engine::EngineKind,
    error::{ConfigError, ConfigErrors},
    gateway_api::GatewayApiConfig,
    gateway_service::{GatewayServiceConfig, ServiceReach},
    inference_pools::{InferencePoolsConfig, ObjectNamespaces, ObjectPool},
    key::{DefaultValue, KeyDescription, ValueType},
    merge::RefusedFragment,
    origin::{ConfigOrigin, ObjectReference},
    pool::{PoolConfig, PoolFragment, PoolIssue, PoolParts},
    service_pool::ServicePool,
    source::{EndpointSource, KubernetesSelection, PortRef},
};
pub(crate) use self::{
    diagnostics::Diagnostics,
    node::{Node, whole},
    source::{SelectorLabels, read_labels},
};
use self::{listener::ListenerFragment, route::RouteFragment, section::Section};

/// Largest configuration file that is read; a ConfigMap cannot be larger either.
pub const MAX_BYTES: usize = 1 << 20;

/// Most pools in one configuration.
pub const MAX_POOLS: usize = 256;

/// Most static endpoints in one configuration, over all pools.
pub const MAX_ENDPOINTS: usize = 10_000;

/// Most routes in one configuration.
pub const MAX_ROUTES: usize = 1_000;

/// Most regular expressions in all routes: each takes memory in every thread of every proxy.
pub const MAX_PATTERNS: usize = 256;

/// Most listeners in one configuration.
pub const MAX_LISTENERS: usize = 64;

/// The name of the pool that the block `app` and `hermes serve` make.
pub const DEFAULT_POOL: &str = "default";

/// A configuration whose every value is checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// At most [`MAX_POOLS`], sorted by name, each name once; at least one, unless objects are
    /// pools, too.
    pub pools: Vec<PoolConfig>,
    /// Which objects of Kubernetes are pools, too, if any.
    pub inference_pools: Option<Box<InferencePoolsConfig>>,
    /// Which objects of Kubernetes are listeners and routes, too, if any.
    pub gateway_api: Option<Box<GatewayApiConfig>>,
    /// Which requests go where, beside the choice by model; at most [`MAX_ROUTES`].
    pub routes: Collection<Route>,
    /// Ports of the proxies beside their usual one; at most [`MAX_LISTENERS`].
    pub listeners: Collection<Listener>,
    /// What applies to every request before its pool is known.
    pub settings: ProxySettings,
    /// What is accepted but probably not intended; one sentence each, for the log.
    pub warnings: Vec<String>,
}

/// A configuration file that is read and not yet merged.
#[derive(Debug)]
struct Document {
    pools: Vec<PoolFragment>,
    inference_pools: Option<Box<InferencePoolsConfig>>,
    gateway_api: Option<Box<GatewayApiConfig>>,
    routes: Vec<RouteFragment>,
    listeners: Vec<ListenerFragment>,
    settings: ProxySettings,
}

// === Config ===

impl Config {
    /// Reads a configuration from YAML (or JSON, which is YAML).
    ///
    /// # Errors
    /// Every error in `text`, each with its path; a text that is not YAML is one error.
    pub fn parse(text: &str) -> Result<Self, ConfigErrors> {
        let diagnostics = Diagnostics::default();
        let tree = tree::parse(text, &diagnostics);
        let document = tree.and_then(|tree| {
            let root = Node::new(&tree, "", &diagnostics);
            Section::read(&root, Document::read)
        });
        Self::merge(document, diagnostics)
    }

    /// As [`Config::parse`], of bytes that may not be text.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, ConfigErrors> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(text),
            Err(error) => {
                let found = format!("byte {} is not UTF-8", error.valid_up_to());
                let fix = "expected a text of at most 1 MiB in UTF-8";
                Err(ConfigError::of_file(found, fix).into())
            }
        }
    }

    /// One pool, `default`, with static endpoints: what `hermes serve --endpoint URL …` means.
    ///
    /// # Errors
    /// Every URL that is not one, and a strategy of an unknown name, by the names of the flags.
    pub fn serve<S: AsRef<str>>(
        endpoints: &[S],
        strategy: Option<&str>,
    ) -> Result<Self, ConfigErrors> {
        let urls: Vec<&str> = endpoints.iter().map(AsRef::as_ref).collect();
        let (urls, strategy) = (json!(urls), strategy.map(Value::from));
        let diagnostics = Diagnostics::default();
        let source = source::read_urls(&Node::new(&urls, "--endpoint", &diagnostics));
        let strategy = strategy.and_then(|name| {
            let node = Node::new(&name, "--strategy", &diagnostics);
            strategy::read(&node)
        });
        let mut parts = PoolParts::new(DEFAULT_POOL.into());
        parts.sources.extend(source);
        parts.policy.strategy = strategy.unwrap_or_else(|| PoolPolicy::default().strategy);
        let (pool, _) = parts.check();
        let document = Document {
            pools: vec![PoolFragment {
                origin: ConfigOrigin::Flags,
                pool,
            }],
            inference_pools: None,
            gateway_api: None,
            routes: Vec::new(),
            listeners: Vec::new(),
            settings: ProxySettings::default(),
        };
        Self::merge(Some(document), diagnostics)
    }

    fn merge(document: Option<Document>, diagnostics: Diagnostics) -> Result<Self, ConfigErrors> {
        let merged = document.map(|document| document.merge(&diagnostics));
        let (config, warnings) = diagnostics.finish(merged)?;
        Ok(Self { warnings, ..config })
    }

    /// This configuration of a file with the pools, listeners and routes of objects beside those of
    /// the file, and what is the matter with pools that are left out. Names of objects have a slash,
    /// which those of the file have not.
    #[must_use]
    pub fn with_objects(
        &self,
        pools: Vec<PoolFragment>,
        listeners: Vec<Arc<Listener>>,
        routes: Vec<Arc<Route>>,
    ) -> (Self, Vec<RefusedFragment>) {
        let (pools, refused) = merge::add(self.pools.clone(), pools);
        let own = self.listeners.iter().cloned();
        let listeners: Vec<_> = own.chain(listeners).collect();
        let own = self.routes.iter().cloned();
        let routes: Vec<_> = own.chain(routes).collect();
        let merged = Self {
            pools,
            listeners: listeners.into(),
            routes: routes.into(),
            ..self.clone()
        };
        (merged, refused)
    }
}

// === Document ===

impl Document {
    fn read(top: &mut Section<'_>) -> Self {
        let mut pools = top.list(
            "pools",
            1..=MAX_POOLS,
            "Sets of interchangeable endpoints.",
            pool::section::read,
        );
        pools.extend(top.optional_section(
            "app",
            "The block of the original hermes-router; it becomes the pool `default`.",
            app::read,
        ));
        let inference_pools = top
            .optional_section(
                "inferencePools",
                "Pools of the Gateway API Inference Extension, as objects of Kubernetes describe them.",
                inference_pools::read,
            )
            .flatten()
            .map(Box::new);
        let gateway_api = top
            .optional_section(
                "gatewayApi",
                "Listeners and routes of the Gateway API, as objects of Kubernetes describe them.",
                gateway_api::read,
            )
            .flatten()
            .map(Box::new);
        let has_objects = inference_pools.is_some() || gateway_api.is_some();
        if !top.has("pools") && !top.has("app") && !has_objects {
            let fix = "set at least one pool, the block `app`, `inferencePools` or `gatewayApi`";
            top.error("pools", "missing", fix);
        }
        let routes = top.list(
            "routes",
            0..=MAX_ROUTES,
            "Which requests go to which pools, by host, path, method, headers and query, as an HTTPRoute of the Gateway API. \
             A port to which none is attached chooses the pool by the model.",
            route::read,
        );
        let listeners = top.list(
            "listeners",
            0..=MAX_LISTENERS,
            "Ports of the proxies beside their usual one, opened and closed as the list changes.",
            listener::read,
        );
        Self {
            pools,
            inference_pools,
            gateway_api,
            routes,
            listeners,
            settings: settings::read(top),
        }
    }

    /// The configuration, still without its warnings. Records what the parts of the file contradict
    /// each other in.
    fn merge(self, diagnostics: &Diagnostics) -> Config {
        let pools = merge::merge(self.pools, diagnostics);
        if let Some(gateways) = &self.gateway_api {
            listener::refuse_ports(&self.listeners, &gateways.service.ports, diagnostics);
        }
        let listeners = listener::merge(self.listeners, diagnostics);
        let names = pools.iter().map(|pool| &*pool.name).collect();
        let known = route::KnownNames {
            pools: names,
            has_other_pools: self.inference_pools.is_some() || self.gateway_api.is_some(),
            listeners: listeners.iter().map(|listener| &*listener.name).collect(),
        };
        let routes = route::merge(self.routes, &known, diagnostics);
        Config {
            pools,
            inference_pools: self.inference_pools,
            gateway_api: self.gateway_api,
            routes: routes.into(),
            listeners: listeners.into(),
            settings: self.settings,
            warnings: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use hermes_core::{address::ServerAddress, policy::Strategy};
    use proptest::prelude::*;

    use super::*;

    const EXAMPLES: [&str; 4] = [
        include_str!("../examples/minimal.yaml"),
        include_str!("../examples/full.yaml"),
        include_str!("../examples/hermes-router.yaml"),
        include_str!("../examples/prefill-decode.yaml"),
    ];

    #[test]
    fn every_example_is_accepted_without_a_warning() {
        for example in EXAMPLES {
            let config = Config::parse(example).expect("a shipped example");
            assert_eq!(config.warnings, Vec::<String>::new());
        }
    }

    #[test]
    fn a_pool_needs_only_a_name_and_endpoints() {
        let config = Config::parse(EXAMPLES[0]).expect("the minimal example");
        let [pool] = &config.pools[..] else {
            panic!("one pool")
        };
        assert_eq!(pool.policy, PoolPolicy::default());
        assert_eq!(
            pool.sources,
            [EndpointSource::Static(vec![
                ServerAddress::parse("http://10.0.0.7:8000").expect("an address")
            ])]
        );
        assert_eq!(config.settings, ProxySettings::default());
    }

    #[test]
    fn all_errors_of_a_file_are_listed_in_the_order_of_their_paths() {
        let text = "
pools:
- {name: Chat, endpoints: ['ftp://10.0.0.7:8000'], timeouts: {connect: fast}}
- {name: b, endpoint: ['http://10.0.0.8:8000'], retry: {maxAttempts: 0}}
limits: {maxBodyByte: 1MiB}
";
        let errors = Config::parse(text).expect_err("six errors");
        let paths: Vec<&str> = errors.iter().map(|error| &*error.path).collect();
        let expected = [
            "limits.maxBodyByte",
            "pools[0].name",
            "pools[0].endpoints[0]",
            "pools[0].timeouts.connect",
            "pools[1].endpoint",
            "pools[1].endpoints",
            "pools[1].retry.maxAttempts",
        ];
        for path in expected {
            assert!(paths.contains(&path), "{path} is not in {paths:?}");
        }
        assert_eq!(paths.len(), expected.len());
    }

    #[test]
    fn the_block_app_and_pools_are_used_together_unless_their_names_clash() {
        let text =
            |name: &str| format!("app: {{}}\npools: [{{name: {name}, endpoints: ['http://a:1']}}]");
        let names: Vec<Arc<str>> = Config::parse(&text("chat"))
            .expect("two pools")
            .pools
            .into_iter()
            .map(|pool| pool.name)
            .collect();
        assert_eq!(names, ["chat".into(), DEFAULT_POOL.into()] as [Arc<str>; 2]);
        let errors = Config::parse(&text("default"))
            .expect_err("both are named default")
            .to_string();
        assert!(errors.contains("used by pools[0]"), "{errors}");
    }

    #[test]
    fn serve_makes_one_pool_and_names_the_flag_that_is_wrong() {
        let config = Config::serve(&["http://127.0.0.1:8001/"], Some("rr")).expect("one endpoint");
        assert_eq!(&*config.pools[0].name, DEFAULT_POOL);
        assert_eq!(config.pools[0].policy.strategy, Strategy::RoundRobin);
        let errors = Config::serve(&["127.0.0.1"], Some("fastest"))
            .expect_err("two errors")
            .to_string();
        assert!(
            errors.contains("--endpoint[0]") && errors.contains("--strategy"),
            "{errors}"
        );
        assert!(
            Config::serve::<&str>(&[], None).is_err(),
            "nothing to serve"
        );
    }

    #[test]
    fn a_server_in_two_pools_causes_a_warning() {
        let text =
            "pools: [{name: a, endpoints: ['http://h:1']}, {name: b, endpoints: ['http://h:1']}]";
        let config = Config::parse(text).expect("allowed");
        assert_eq!(config.warnings.len(), 1);
        assert!(
            config.warnings[0].contains("http://h:1"),
            "{:?}",
            config.warnings
        );
    }

    #[test]
    fn a_model_in_two_pools_causes_a_warning_that_names_the_one_that_is_used() {
        let pool = |name: &str, port: u16| {
            format!("{{name: {name}, models: [llama], endpoints: ['http://h:{port}']}}")
        };
        let text = format!("pools: [{}, {}]", pool("h100", 1), pool("b200", 2));
        let config = Config::parse(&text).expect("allowed");
        let expected = "pools[0].models: all requests for `llama` go to the pool `b200`, the first by name that serves it";
        assert_eq!(config.warnings, [expected]);
        let rewritten = text.replace(
            "models: [llama]",
            "rewrites: [{model: llama, targets: [{model: x}]}]",
        );
        let config = Config::parse(&rewritten).expect("allowed");
        assert_eq!(config.warnings, [expected.replace("models", "rewrites")]);
    }

    proptest! {
        #[test]
        fn any_text_is_a_configuration_or_a_list_of_errors(text in "\\PC{0,200}|[\\[\\]{}:,&*!|>'\"%@ \n\t#a-z0-9-]{0,300}") {
            if let Err(errors) = Config::parse(&text) {
                prop_assert!(!errors.is_empty());
            }
        }

        #[test]
        fn a_mutated_example_never_panics(
            which in 0..EXAMPLES.len(), at in 0.0..1.0_f64, cut in 0..40_usize, insert in "[\\PC\n]{0,20}",
        ) {
            let chars: Vec<char> = EXAMPLES[which].chars().collect();
            let at = (at * chars.len() as f64) as usize;
            let rest = (at + cut).min(chars.len());
            let text: String = chars[..at].iter().copied().chain(insert.chars()).chain(chars[rest..].iter().copied()).collect();
            if let Err(errors) = Config::parse(&text) {
                prop_assert!(!errors.is_empty());
            }
        }
    }
}
