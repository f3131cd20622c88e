//! One pool of the list `pools`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hermes_core::policy::{
    EjectionPolicy, KvAware, PoolPolicy, QueueLimits, RetryPolicy, Strategy, Timeouts,
};

use super::{
    address::is_path,
    kv_events::{self, KvEventsConfig},
    kv_manager::{self, KvManagerConfig},
    reader::{Fields, Node},
    sections::{EJECTION, METRICS, POOL, PREFIX, QUEUE, RETRY, TIMEOUTS},
    source::{self, Source},
    strategy, tenant, tokenizer,
};
use crate::cache_sources::tokenizer::TokenizerSettings;

/// Most models that one pool may name.
const MAX_MODELS: usize = 1_000;

/// Everything that was configured for a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// 1 to 63 characters of a-z, 0-9 and `-`; unique.
    pub name: Arc<str>,
    /// Sorted, each once; empty when the engines are to be asked.
    pub models: Vec<Arc<str>>,
    /// What runs behind the endpoints.
    pub engine: Engine,
    /// Where the endpoints come from; at least one.
    pub sources: Vec<Source>,
    /// How requests are handled; travels to the proxies.
    pub policy: PoolPolicy,
    /// How metrics are collected.
    pub collector: CollectorConfig,
    /// Whom to ask about caches; present only when the strategy reads the answer.
    pub kv_manager: Option<KvManagerConfig>,
    /// Where the engines tell what they cache; present only when the strategy reads it.
    pub kv_events: Option<KvEventsConfig>,
    /// How prompts become token ids; present only when somebody goes by them.
    pub tokenizer: Option<TokenizerSettings>,
}

/// What runs behind the endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Engine {
    /// vLLM.
    #[default]
    Vllm,
    /// SGLang.
    Sglang,
    /// TensorRT-LLM.
    TrtLlm,
    /// Text Generation Inference.
    Tgi,
    /// llama.cpp's server.
    LlamaCpp,
    /// Any OpenAI-compatible server.
    OpenAi,
}

/// How a pool's metrics are collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorConfig {
    /// Whether at all.
    pub enabled: bool,
    /// How often each endpoint is asked.
    pub interval: Duration,
    /// How long one answer may take.
    pub timeout: Duration,
    /// Where: begins with `/`.
    pub path: Arc<str>,
    /// Samples older than this are not used; longer than `interval`.
    pub stale_after: Duration,
}

// === PoolConfig ===

impl PoolConfig {
    /// A pool with every default, and no endpoints yet.
    pub(super) fn new(name: Arc<str>) -> Self {
        let engine = Engine::default();
        Self {
            name,
            models: Vec::new(),
            engine,
            sources: Vec::new(),
            policy: PoolPolicy::default(),
            collector: CollectorConfig::new(engine, Duration::from_secs(1), Duration::from_secs(2)),
            kv_manager: None,
            kv_events: None,
            tokenizer: None,
        }
    }

    /// Takes a KV manager if the strategy reads its answer, and makes room for it in the policy.
    pub(super) fn with_kv_manager(
        mut self,
        found: Option<KvManagerConfig>,
        fields: &Fields<'_>,
        key: &str,
    ) -> Self {
        let Some(found) = found else { return self };
        if !self.policy.strategy.needs_prefix() {
            let strategy = self.policy.strategy.name();
            fields.warn(format!(
                "{}: not asked, since the strategy {strategy} does not look at caches",
                fields.path_of(key)
            ));
            return self;
        }
        self.policy.score_deadline += found.budget;
        self.policy.lookup_text = true;
        self.kv_manager = Some(found);
        self
    }

    /// Follows KV events if the strategy reads what they tell, and looks for their ports.
    fn with_kv_events(mut self, found: Option<KvEventsConfig>, fields: &Fields<'_>) -> Self {
        let Some(found) = found else { return self };
        if !self.policy.strategy.needs_prefix() {
            let strategy = self.policy.strategy.name();
            fields.warn(format!(
                "{}: not followed, since the strategy {strategy} does not look at caches",
                fields.path_of("kvEvents")
            ));
            return self;
        }
        if !matches!(self.engine, Engine::Vllm | Engine::Sglang) {
            let engine = self.engine.name();
            fields.warn(format!(
                "{}: the engine {engine} is not known to publish any",
                fields.path_of("kvEvents")
            ));
        }
        self.sources
            .iter_mut()
            .for_each(|source| source.find_event_ports(&found.names));
        self.kv_events = Some(found);
        self
    }

    /// Takes a tokenizer if somebody goes by its ids, and makes room for it in the policy.
    ///
    /// Whoever publishes KV events answers `/tokenize` too, so that their followers need no more said.
    fn with_tokenizer(mut self, found: Option<TokenizerSettings>, fields: &Fields<'_>) -> Self {
        let needs = self
            .kv_manager
            .as_ref()
            .is_some_and(|manager| manager.dialect.needs_tokens());
        if needs && fields.node("tokenizer").is_none() {
            fields.missing(
                "tokenizer",
                "a conductor goes by token ids: give the model's `path`, or `engine: true`",
            );
        }
        let follows = self.kv_events.is_some();
        let asks_engines =
            || (follows && fields.node("tokenizer").is_none()).then(tokenizer::engines);
        let Some(found) = found.or_else(asks_engines) else {
            return self;
        };
        if self.kv_manager.is_none() && !follows {
            fields.warn(format!(
                "{}: not used, since nothing goes by token ids",
                fields.path_of("tokenizer")
            ));
            return self;
        }
        self.policy.score_deadline += found.timeout;
        self.policy.lookup_text = true;
        self.tokenizer = Some(found);
        self
    }
}

// === Engine ===

impl Engine {
    const ALL: [Self; 6] = [
        Self::Vllm,
        Self::Sglang,
        Self::TrtLlm,
        Self::Tgi,
        Self::LlamaCpp,
        Self::OpenAi,
    ];

    /// Its name in the configuration and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::TrtLlm => "trtllm",
            Self::Tgi => "tgi",
            Self::LlamaCpp => "llamacpp",
            Self::OpenAi => "openai",
        }
    }

    /// Where it exposes its metrics unless something else is configured.
    #[must_use]
    pub const fn metrics_path(self) -> &'static str {
        match self {
            Self::TrtLlm => "/prometheus/metrics",
            Self::Vllm | Self::Sglang | Self::Tgi | Self::LlamaCpp | Self::OpenAi => "/metrics",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }
}

// === CollectorConfig ===

impl CollectorConfig {
    pub(super) fn new(engine: Engine, interval: Duration, timeout: Duration) -> Self {
        Self {
            enabled: engine != Engine::OpenAi,
            interval,
            timeout,
            path: engine.metrics_path().into(),
            stale_after: (interval * 3).max(Duration::from_secs(5)),
        }
    }
}

/// One item of `pools`.
pub(super) fn read(node: &Node<'_>) -> Option<PoolConfig> {
    let fields = node.fields(&POOL)?;
    let name = read_name(&fields);
    let engine = fields
        .one_of("engine")
        .and_then(Engine::of)
        .unwrap_or_default();
    let pool = PoolConfig {
        models: fields
            .node("models")
            .and_then(|node| read_models(&node))
            .unwrap_or_default(),
        engine,
        sources: read_sources(&fields),
        policy: read_policy(&fields),
        collector: read_collector(&fields, engine),
        ..PoolConfig::new(Arc::default())
    };
    let kv_manager = fields
        .node("kvManager")
        .and_then(|node| kv_manager::read(&node));
    let kv_events = fields
        .node("kvEvents")
        .and_then(|node| kv_events::read(&node));
    let tokenizer = fields
        .node("tokenizer")
        .and_then(|node| tokenizer::read(&node, engine));
    let pool = pool
        .with_kv_manager(kv_manager, &fields, "kvManager")
        .with_kv_events(kv_events, &fields);
    let pool = pool.with_tokenizer(tokenizer, &fields);
    Some(PoolConfig {
        name: name?,
        ..pool
    })
}

fn read_name(fields: &Fields<'_>) -> Option<Arc<str>> {
    let fix = "give 1 to 63 characters of a-z, 0-9 and -";
    let Some(node) = fields.node("name") else {
        fields.missing("name", fix);
        return None;
    };
    let name = node.text("1 to 63 characters of a-z, 0-9 and -")?;
    if !source::is_dns_label(name, 63) {
        return node.wrong(fix);
    }
    Some(name.into())
}

fn read_models(node: &Node<'_>) -> Option<Vec<Arc<str>>> {
    let mut models: BTreeSet<Arc<str>> = BTreeSet::new();
    for item in node.items(0, MAX_MODELS, "model names")? {
        let Some(name) = item.text("a model's name") else {
            continue;
        };
        if !models.insert(name.into()) {
            item.wrong::<()>("leave it out: it is in the list already");
        }
    }
    Some(models.into_iter().collect())
}

fn read_sources(fields: &Fields<'_>) -> Vec<Source> {
    let (endpoints, kubernetes) = (fields.node("endpoints"), fields.node("kubernetes"));
    if endpoints.is_none() && kubernetes.is_none() {
        fields.missing("endpoints", "give static URLs here, or `kubernetes`");
    }
    let fixed = endpoints.and_then(|node| source::read_endpoints(&node));
    let found = kubernetes.and_then(|node| source::read_kubernetes(&node));
    fixed.into_iter().chain(found).collect()
}

/// The strategy, with the bounds of those who wait under it, which stand beside it.
fn read_strategy(fields: &Fields<'_>) -> Option<Strategy> {
    let given = fields.node("strategy");
    let strategy = given
        .as_ref()
        .map_or(Some(Strategy::KvAware(KvAware::default())), strategy::read)?;
    let Some(queue) = fields.node("queue").and_then(|node| read_queue(&node)) else {
        return Some(strategy);
    };
    match strategy {
        Strategy::KvAware(rules) => Some(Strategy::KvAware(KvAware { queue, ..rules })),
        other => {
            let (path, name) = (fields.path_of("queue"), other.name());
            fields.warn(format!(
                "{path}: has no effect, since nothing waits under the strategy {name}"
            ));
            Some(other)
        }
    }
}

fn read_queue(node: &Node<'_>) -> Option<QueueLimits> {
    let (fields, defaults) = (node.fields(&QUEUE)?, QueueLimits::default());
    Some(QueueLimits {
        max_requests: fields.count("maxRequests").unwrap_or(defaults.max_requests),
        max_bytes: fields.size("maxBytes").unwrap_or(defaults.max_bytes),
        max_wait: fields.duration("maxWait").unwrap_or(defaults.max_wait),
    })
}

fn read_policy(fields: &Fields<'_>) -> PoolPolicy {
    let defaults = PoolPolicy::default();
    let prefix = fields.node("prefix").and_then(|node| node.fields(&PREFIX));
    let block_bytes = prefix.and_then(|prefix| u32::try_from(prefix.size("blockBytes")?).ok());
    PoolPolicy {
        strategy: read_strategy(fields).unwrap_or(defaults.strategy),
        timeouts: fields
            .node("timeouts")
            .and_then(|node| read_timeouts(&node))
            .unwrap_or(defaults.timeouts),
        retry: fields
            .node("retry")
            .and_then(|node| read_retry(&node))
            .unwrap_or(defaults.retry),
        ejection: fields
            .node("ejection")
            .and_then(|node| read_breaker(&node))
            .unwrap_or(defaults.ejection),
        block_bytes: block_bytes.unwrap_or(defaults.block_bytes),
        score_deadline: fields
            .duration("scoreDeadline")
            .unwrap_or(defaults.score_deadline),
        lookup_text: defaults.lookup_text,
        tenant: fields
            .node("tenant")
            .and_then(|node| tenant::read(&node))
            .unwrap_or(defaults.tenant),
    }
}

fn read_timeouts(node: &Node<'_>) -> Option<Timeouts> {
    let (fields, defaults) = (node.fields(&TIMEOUTS)?, Timeouts::default());
    Some(Timeouts {
        connect: fields.duration("connect").unwrap_or(defaults.connect),
        request: fields.duration("request").unwrap_or(defaults.request),
        first_byte: fields.duration("firstByte").unwrap_or(defaults.first_byte),
        idle: fields.duration("idle").unwrap_or(defaults.idle),
    })
}

fn read_retry(node: &Node<'_>) -> Option<RetryPolicy> {
    let (fields, defaults) = (node.fields(&RETRY)?, RetryPolicy::default());
    Some(RetryPolicy {
        max_attempts: fields.count("maxAttempts").unwrap_or(defaults.max_attempts),
        budget: fields.number("budget").unwrap_or(defaults.budget),
    })
}

fn read_breaker(node: &Node<'_>) -> Option<EjectionPolicy> {
    let (fields, defaults) = (node.fields(&EJECTION)?, EjectionPolicy::default());
    let breaker = EjectionPolicy {
        consecutive_failures: fields
            .count("consecutiveFailures")
            .unwrap_or(defaults.consecutive_failures),
        base_time: fields.duration("baseTime").unwrap_or(defaults.base_time),
        max_time: fields.duration("maxTime").unwrap_or(defaults.max_time),
        slow_start: fields.duration("slowStart").unwrap_or(defaults.slow_start),
    };
    if breaker.max_time < breaker.base_time {
        fields.mistake(
            "maxTime",
            "shorter than `baseTime`",
            "give at least as much as `baseTime`",
        );
    }
    Some(breaker)
}

fn read_collector(fields: &Fields<'_>, engine: Engine) -> CollectorConfig {
    let defaults = CollectorConfig::new(engine, Duration::from_secs(1), Duration::from_secs(2));
    let Some(fields) = fields
        .node("metrics")
        .and_then(|node| node.fields(&METRICS))
    else {
        return defaults;
    };
    let interval = fields.duration("interval").unwrap_or(defaults.interval);
    let timeout = fields.duration("timeout").unwrap_or(defaults.timeout);
    let defaults = CollectorConfig::new(engine, interval, timeout);
    let path = fields.text("path");
    if path.is_some_and(|path| !is_path(path)) {
        fields
            .node("path")
            .and_then(|node| node.wrong::<()>("give a path such as /metrics"));
    }
    let stale_after = fields
        .duration("staleAfter")
        .unwrap_or(defaults.stale_after);
    if stale_after <= interval {
        fields.mistake(
            "staleAfter",
            "not longer than `interval`",
            "give at least two intervals",
        );
    }
    CollectorConfig {
        enabled: fields.flag("enabled").unwrap_or(defaults.enabled),
        path: path.map_or(defaults.path, Arc::from),
        stale_after,
        interval,
        timeout,
    }
}

#[cfg(test)]
mod tests {
    use hermes_core::policy::{
        ClassicWeights, CountScale, PrefixCacheRules, ProxySettings, TenantKey,
    };

    use super::*;
    use crate::{
        cache_sources::{
            kv_manager::{Conductor, Dialect, Encoding, EventSource, Registration},
            tokenizer::{ContentFormat, TokenizerFiles, Way},
        },
        config::{Config, Port},
    };

    fn full() -> Config {
        Config::parse(include_str!("../../examples/full.yaml")).expect("a good file")
    }

    #[test]
    fn every_value_of_the_full_example_arrives() {
        let config = full();
        let [agents, chat, code, drafts, embeddings] = &config.pools[..] else {
            panic!("five pools, by name")
        };
        let millis = Duration::from_millis;
        let weights = ClassicWeights {
            miss: 2.0,
            usage: 0.5,
            waiting: 1.5,
            in_flight: 0.8,
            scale: CountScale::Raw,
        };
        let policy = PoolPolicy {
            strategy: Strategy::HermesClassic(weights),
            timeouts: Timeouts {
                connect: millis(1_000),
                request: millis(300_000),
                first_byte: millis(30_000),
                idle: millis(90_000),
            },
            retry: RetryPolicy {
                max_attempts: 2,
                budget: 0.1,
            },
            ejection: EjectionPolicy {
                consecutive_failures: 5,
                base_time: millis(500),
                max_time: millis(60_000),
                slow_start: millis(10_000),
            },
            block_bytes: 512,
            score_deadline: millis(15 + 30 + 20),
            lookup_text: true,
            tenant: TenantKey::Header("x-team".into()),
        };
        assert_eq!(chat.policy, policy);
        assert_eq!(
            chat.models,
            ["Qwen/Qwen3-8B".into(), "sql-adapter".into()] as [Arc<str>; 2]
        );
        let [Source::Static(urls), Source::Services(selection)] = &chat.sources[..] else {
            panic!("two sources")
        };
        assert_eq!(
            (urls.len(), &selection.port),
            (2, &Port::Name("http".into()))
        );
        assert_eq!(
            (&*chat.collector.path, chat.collector.stale_after),
            ("/custom/metrics", millis(7_000))
        );
        let kv_manager = chat.kv_manager.as_ref().expect("configured");
        assert_eq!(
            &*kv_manager.url,
            "http://cache-indexer-service:8081/v2/match_sort"
        );
        let kv_events = chat.kv_events.as_ref().expect("configured");
        assert_eq!(
            (kv_events.port, kv_events.replay_port, kv_events.ranks),
            (Some(5601), Some(5602), Some(2))
        );
        assert_eq!(
            (&*kv_events.topic, &*kv_events.names.publish),
            ("kv@", &["events".to_owned()][..])
        );
        assert_eq!(selection.event_ports.as_ref(), Some(&kv_events.names));
        assert_eq!(kv_manager.cache, millis(200));
        let Dialect::MatchSort(keys) = &kv_manager.dialect else {
            panic!("match-sort")
        };
        assert_eq!((keys.id_keys.len(), keys.score_keys.len()), (1, 1));
        assert_eq!(
            chat.tokenizer.as_ref().map(|tokenizer| &tokenizer.way),
            Some(&Way::Engine)
        );
        assert_conductor(code);
        let queue = QueueLimits {
            max_requests: 500,
            max_bytes: 256 << 20,
            max_wait: millis(10_000),
        };
        let rules = KvAware {
            late: false,
            window: millis(100),
            gamma: 2.0,
            gamma_waiting: 4.0,
            default_prefill_rate: 12_000.0,
            default_cache_tokens: 900_000,
            queue,
        };
        assert_eq!(code.policy.strategy, Strategy::KvAware(rules));
        let rules = PrefixCacheRules {
            threshold: 0.4,
            load_factor: 2.0,
        };
        assert_eq!(drafts.policy.strategy, Strategy::PrefixCache(rules));
        assert!(matches!(agents.sources[..], [Source::Pods(_)]));
        assert_eq!(
            (agents.engine, embeddings.engine),
            (Engine::Sglang, Engine::OpenAi)
        );
        assert!(
            !embeddings.collector.enabled,
            "an unknown server has no known metrics"
        );
        assert_eq!(
            config.settings,
            ProxySettings {
                max_body_bytes: 16 << 20,
                max_concurrent: 2_000,
                client_timeout: millis(10_000),
                expose_endpoint: true,
                extra_paths: vec!["/v2/embed".into()],
            }
        );
    }

    fn assert_conductor(code: &PoolConfig) {
        let register = Registration {
            port: 5600,
            replay_port: Some(5700),
            ranks: 2,
            source: EventSource::Sglang,
            algorithm: "sha256".into(),
            hash_seed: "7".into(),
        };
        let conductor = Conductor {
            encoding: Encoding::Msgpack,
            tenant: "team-a".into(),
            model: Some("coder".into()),
            lora: Some("sql-adapter".into()),
            cache_salt: Some("pepper".into()),
            block_size: Some(128),
            instances: vec![("prefill-0".into(), "10.0.0.9:8000".into())],
            register: Some(register),
        };
        let manager = code.kv_manager.as_ref().expect("configured");
        assert_eq!(manager.dialect, Dialect::Conductor(Box::new(conductor)));
        let files = TokenizerFiles {
            path: "/models/coder".into(),
            template: Some("/templates/coder.jinja".into()),
            content: Some(ContentFormat::Text),
            kwargs: serde_json::Map::from_iter([("enable_thinking".to_owned(), false.into())]),
        };
        let settings = TokenizerSettings {
            way: Way::Files(files),
            cache: 128 << 20,
            timeout: Duration::from_millis(30),
            longest: 256 << 10,
        };
        assert_eq!(code.tokenizer.as_ref(), Some(&settings));
        assert_eq!(
            code.policy.score_deadline,
            Duration::from_millis(20 + 50 + 30)
        );
    }

    #[test]
    fn a_conductor_needs_a_tokenizer_and_a_tokenizer_needs_somebody_to_use_it() {
        let pool = |rest: &str| {
            Config::parse(&format!(
                "pools: [{{name: a, endpoints: ['http://h:1'], {rest}}}]"
            ))
        };
        let mistakes = pool("kvManager: {protocol: conductor, url: 'http://c'}")
            .expect_err("no tokens")
            .to_string();
        assert!(mistakes.contains("pools[0].tokenizer"), "{mistakes}");
        let config = pool("tokenizer: {engine: true}").expect("accepted");
        assert!(
            config.warnings[0].contains("nothing goes by token ids"),
            "{:?}",
            config.warnings
        );
        assert!(!config.pools[0].policy.lookup_text && config.pools[0].tokenizer.is_none());
    }

    #[test]
    fn an_engine_with_another_metrics_path_has_it_by_default() {
        let text = "pools: [{name: a, engine: trtllm, endpoints: ['http://h:1'], metrics: {interval: 4s}}]";
        let config = Config::parse(text).expect("a good file");
        let collector = &config.pools[0].collector;
        assert_eq!(&*collector.path, "/prometheus/metrics");
        assert_eq!(collector.stale_after, Duration::from_secs(12));
    }

    #[test]
    fn every_engine_is_found_by_its_name() {
        for engine in Engine::ALL {
            assert_eq!(Engine::of(engine.name()), Some(engine));
        }
    }
}
