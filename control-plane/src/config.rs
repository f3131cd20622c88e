//! The configuration file: what was typed becomes what it means, or a list of everything that is wrong with it.
//!
//! ```text
//!   text ──YAML──▶ tree ──reader (paths, key lists)──▶ Config { pools, settings, warnings }
//!                                                └───▶ Mistakes, all of them, each with its path
//! ```
//!
//! Invariants:
//! * a [`Config`] holds checked values only: nothing behind this module checks a range or parses a URL again;
//! * every key is declared once, in `sections`, with its range, default and meaning: the reader checks against that
//!   list and the page `docs/configuration.md` is compared with it;
//! * an unknown key, a key given twice and a value out of range are mistakes, never ignored;
//! * no input makes it panic, and input over [`MAX_BYTES`] is refused before it is parsed.
//!
//! It does not read environment variables or command lines, and it does not reach any network.

mod address;
mod app;
mod conductor;
pub mod duration;
mod kv_events;
mod kv_manager;
#[cfg(test)]
mod messages;
mod mistakes;
mod nearest;
mod pool;
mod reader;
pub mod reference;
mod sections;
mod settings;
mod size;
mod source;
mod strategy;
mod tenant;
mod tokenizer;
mod tree;
pub mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use hermes_core::policy::{PoolPolicy, ProxySettings};
use serde_json::{Value, json};

pub use self::{
    kv_events::KvEventsConfig,
    kv_manager::KvManagerConfig,
    mistakes::{Mistake, Mistakes},
    pool::{CollectorConfig, Engine, PoolConfig},
    source::{Port, Selection, Source},
};
use self::{
    reader::{Fields, Node, Notes},
    sections::TOP,
};

/// Largest configuration file that is read; a ConfigMap cannot be larger either.
pub const MAX_BYTES: usize = 1 << 20;

/// Most pools in one configuration.
pub const MAX_POOLS: usize = 256;

/// Most static endpoints in one configuration, over all pools.
pub const MAX_ENDPOINTS: usize = 10_000;

/// The name of the pool that the block `app` and `hermes serve` make.
pub const DEFAULT_POOL: &str = "default";

/// A configuration whose every value was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// At least one, at most [`MAX_POOLS`], sorted by name, each name once.
    pub pools: Vec<PoolConfig>,
    /// What applies to every request before its pool is known.
    pub settings: ProxySettings,
    /// What is accepted but probably not meant; one sentence each, for the log.
    pub warnings: Vec<String>,
}

// === Config ===

impl Config {
    /// Reads a configuration from YAML (or JSON, which is YAML).
    ///
    /// # Errors
    /// Every mistake in `text`, each with its path; a text that is not YAML is one mistake.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        let notes = Notes::default();
        let tree = tree::parse(text, &notes);
        let config = tree.and_then(|tree| Self::read(&Node::root(&tree, &notes)));
        notes.finish(config)
    }

    /// As [`Config::parse`], of bytes that may not be text.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub fn parse_bytes(bytes: &[u8]) -> Result<Self, Mistakes> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(text),
            Err(error) => {
                let found = format!("byte {} is not UTF-8", error.valid_up_to());
                Err(Mistake::of_file(found, "give a text of at most 1 MiB in UTF-8").into())
            }
        }
    }

    /// One pool, `default`, with static endpoints: what `hermes serve --endpoint URL …` means.
    ///
    /// # Errors
    /// Every URL that is not one, and a strategy of an unknown name, by the names of the flags.
    pub fn serve<S: AsRef<str>>(endpoints: &[S], strategy: Option<&str>) -> Result<Self, Mistakes> {
        let urls: Vec<&str> = endpoints.iter().map(AsRef::as_ref).collect();
        let (urls, name) = (json!(urls), strategy.map_or(Value::Null, Value::from));
        let notes = Notes::default();
        let source = source::read_endpoints(&Node::new(&urls, "--endpoint", &notes));
        let strategy = Some(&name).filter(|name| !name.is_null());
        let strategy =
            strategy.and_then(|name| strategy::read(&Node::new(name, "--strategy", &notes)));
        let strategy = strategy.unwrap_or_else(|| PoolPolicy::default().strategy);
        let pool = PoolConfig {
            sources: source.into_iter().collect(),
            policy: PoolPolicy {
                strategy,
                ..PoolPolicy::default()
            },
            ..PoolConfig::new(DEFAULT_POOL.into())
        };
        notes.finish(Some(Self {
            pools: vec![pool],
            settings: ProxySettings::default(),
            warnings: Vec::new(),
        }))
    }

    fn read(root: &Node<'_>) -> Option<Self> {
        let fields = root.fields(&TOP)?;
        let settings = settings::read(&fields);
        let mut pools = read_pools(&fields);
        pools.extend(
            fields
                .node("app")
                .and_then(|node| app::read(&node))
                .map(|pool| (pool, "app".to_owned())),
        );
        if fields.node("pools").is_none() && fields.node("app").is_none() {
            fields.missing("pools", "give at least one pool, or the block `app`");
        }
        refuse_clashes(&pools, root);
        bound_endpoints(&pools, root);
        warn_shared_endpoints(&pools, root);
        let mut pools: Vec<PoolConfig> = pools.into_iter().map(|(pool, _)| pool).collect();
        pools.sort_by(|a, b| a.name.cmp(&b.name));
        Some(Self {
            pools,
            settings,
            warnings: Vec::new(),
        })
    }
}

/// The pools of the list `pools`, each with its path.
fn read_pools(fields: &Fields<'_>) -> Vec<(PoolConfig, String)> {
    let Some(node) = fields.node("pools") else {
        return Vec::new();
    };
    let Some(items) = node.items(1, MAX_POOLS, "pools") else {
        return Vec::new();
    };
    items
        .iter()
        .filter_map(|item| Some((pool::read(item)?, item.path().to_owned())))
        .collect()
}

/// A pool's name is taken by the first that bears it.
fn refuse_clashes(pools: &[(PoolConfig, String)], root: &Node<'_>) {
    let mut first: BTreeMap<&Arc<str>, &str> = BTreeMap::new();
    for (pool, path) in pools {
        let Some(taken) = first.get(&pool.name) else {
            first.insert(&pool.name, path);
            continue;
        };
        let found = format!("the name `{}` is taken by {taken}", pool.name);
        root.mistake(
            path,
            found,
            "give every pool its own name (the block `app` makes the pool `default`)",
        );
    }
}

fn bound_endpoints(pools: &[(PoolConfig, String)], root: &Node<'_>) {
    let total: usize = pools
        .iter()
        .flat_map(|(pool, _)| &pool.sources)
        .flat_map(Source::static_urls)
        .count();
    if total > MAX_ENDPOINTS {
        let fix =
            format!("give at most {MAX_ENDPOINTS} over all pools, or let Kubernetes find them");
        root.mistake("pools", format!("{total} static endpoints"), fix);
    }
}

/// Two pools that share a server work, but neither sees the load that the other sends.
fn warn_shared_endpoints(pools: &[(PoolConfig, String)], root: &Node<'_>) {
    let mut first: BTreeMap<&str, &Arc<str>> = BTreeMap::new();
    for (pool, path) in pools {
        for url in pool.sources.iter().flat_map(Source::static_urls) {
            let owner = *first.entry(url).or_insert(&pool.name);
            if owner != &pool.name {
                root.warn(format!(
                    "{path}.endpoints: {url} is in the pool `{owner}` too; each counts only its own load"
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hermes_core::policy::Strategy;
    use proptest::prelude::*;

    use super::*;

    const EXAMPLES: [&str; 3] = [
        include_str!("../examples/minimal.yaml"),
        include_str!("../examples/full.yaml"),
        include_str!("../examples/hermes-router.yaml"),
    ];

    #[test]
    fn every_example_is_accepted_without_a_warning() {
        for example in EXAMPLES {
            let config = Config::parse(example).expect("a shipped example");
            assert_eq!(config.warnings, Vec::<String>::new());
        }
    }

    #[test]
    fn a_pool_needs_a_name_and_endpoints_and_the_rest_has_defaults() {
        let config = Config::parse(EXAMPLES[0]).expect("the minimal example");
        let [pool] = &config.pools[..] else {
            panic!("one pool")
        };
        assert_eq!(pool.policy, PoolPolicy::default());
        assert_eq!(
            pool.sources,
            [Source::Static(vec!["http://10.0.0.7:8000".into()])]
        );
        assert_eq!(config.settings, ProxySettings::default());
    }

    #[test]
    fn all_mistakes_of_a_file_are_listed_in_the_order_of_their_paths() {
        let text = "
pools:
- {name: Chat, endpoints: ['https://10.0.0.7:8000'], timeouts: {connect: fast}}
- {name: b, endpoint: ['http://10.0.0.8:8000'], retry: {maxAttempts: 0}}
limits: {maxBodyByte: 1MiB}
";
        let mistakes = Config::parse(text).expect_err("six mistakes");
        let paths: Vec<&str> = mistakes.iter().map(|mistake| &*mistake.path).collect();
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
    fn the_block_app_and_pools_live_side_by_side_until_their_names_clash() {
        let text =
            |name: &str| format!("app: {{}}\npools: [{{name: {name}, endpoints: ['http://a:1']}}]");
        let names: Vec<Arc<str>> = Config::parse(&text("chat"))
            .expect("two pools")
            .pools
            .into_iter()
            .map(|pool| pool.name)
            .collect();
        assert_eq!(names, ["chat".into(), DEFAULT_POOL.into()] as [Arc<str>; 2]);
        let mistakes = Config::parse(&text("default"))
            .expect_err("both are named default")
            .to_string();
        assert!(mistakes.contains("taken by pools[0]"), "{mistakes}");
    }

    #[test]
    fn serve_makes_one_pool_and_names_the_flag_that_is_wrong() {
        let config = Config::serve(&["http://127.0.0.1:8001/"], Some("rr")).expect("one endpoint");
        assert_eq!(&*config.pools[0].name, DEFAULT_POOL);
        assert_eq!(config.pools[0].policy.strategy, Strategy::RoundRobin);
        let mistakes = Config::serve(&["127.0.0.1"], Some("fastest"))
            .expect_err("two mistakes")
            .to_string();
        assert!(
            mistakes.contains("--endpoint[0]") && mistakes.contains("--strategy"),
            "{mistakes}"
        );
        assert!(
            Config::serve::<&str>(&[], None).is_err(),
            "nothing to serve"
        );
    }

    #[test]
    fn a_server_in_two_pools_is_worth_a_warning() {
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

    proptest! {
        #[test]
        fn any_text_is_a_configuration_or_a_list_of_mistakes(text in "\\PC{0,200}|[\\[\\]{}:,&*!|>'\"%@ \n\t#a-z0-9-]{0,300}") {
            if let Err(mistakes) = Config::parse(&text) {
                prop_assert!(!mistakes.is_empty());
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
            if let Err(mistakes) = Config::parse(&text) {
                prop_assert!(!mistakes.is_empty());
            }
        }
    }
}
