//! The block `app` of the original hermes-router, which becomes the pool `default`.
//!
//! Its keys keep their meaning and their defaults, so that an existing `values.yaml` works unchanged; see
//! `docs/configuration.md` for what each does here.

use std::{collections::BTreeMap, time::Duration};

use hermes_core::policy::{ClassicWeights, PoolPolicy, Strategy, Timeouts};

use super::{
    DEFAULT_POOL, kv_manager,
    pool::{CollectorConfig, Engine, PoolConfig},
    reader::{Fields, Node},
    sections::{APP, COLLECTOR, DISCOVERY},
    source::{self, Port, Selection, Source},
    strategy,
};

/// What the strategies read of an engine, under its old and new names.
const METRICS: [&str; 4] = [
    "vllm:gpu_cache_usage_perc",
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_waiting",
    "vllm:num_requests_running",
];

/// Most metric names that are looked at.
const MAX_METRICS: usize = 100;

/// The pool that the block describes.
pub(super) fn read(node: &Node<'_>) -> Option<PoolConfig> {
    let fields = node.fields(&APP)?;
    let (engine, collector) = read_collector(&fields);
    let pool = PoolConfig {
        engine,
        collector,
        sources: vec![Source::Services(read_discovery(&fields))],
        policy: read_policy(&fields),
        ..PoolConfig::new(DEFAULT_POOL.into())
    };
    let kv_manager = fields
        .node("kvmanager")
        .and_then(|node| kv_manager::read_original(&node));
    Some(pool.with_kv_manager(kv_manager, &fields, "kvmanager"))
}

fn read_policy(fields: &Fields<'_>) -> PoolPolicy {
    let defaults = PoolPolicy::default();
    let strategy = fields
        .node("strategy")
        .and_then(|node| strategy::read(&node))
        .unwrap_or(defaults.strategy);
    // The timeout is that of answers that do not stream, as in the original; streams have their own.
    let request = fields
        .duration("timeout")
        .unwrap_or(defaults.timeouts.request);
    PoolPolicy {
        strategy: weighted(fields, strategy),
        timeouts: Timeouts {
            request,
            ..defaults.timeouts
        },
        ..defaults
    }
}

/// A chart renders `weights` whatever the strategy is, so they are checked always. Weights that differ from the
/// defaults ask for the score that they belong to, which the original called `kv-aware`.
fn weighted(fields: &Fields<'_>, strategy: Strategy) -> Strategy {
    let Some(node) = fields.node("weights") else {
        return strategy;
    };
    if fields
        .node("strategy")
        .is_some_and(|strategy| strategy.has("weights"))
    {
        fields.mistake(
            "weights",
            "weights stand in `strategy` too",
            "give them once",
        );
    }
    let weights = strategy::read_weights(&node, ClassicWeights::default()).unwrap_or_default();
    match strategy {
        Strategy::HermesClassic(_) => Strategy::HermesClassic(weights),
        Strategy::KvAware(_) if weights != ClassicWeights::default() => {
            Strategy::HermesClassic(weights)
        }
        other => other,
    }
}

fn read_discovery(app: &Fields<'_>) -> Selection {
    let namespace = source::read_namespace(app);
    let fields = app
        .node("discovery")
        .and_then(|node| node.fields(&DISCOVERY));
    let fields = fields.as_ref();
    // There is one type; reading it refuses every other.
    fields.and_then(|fields| fields.one_of("type"));
    let labels = fields.and_then(|fields| fields.node("labelSelector"));
    let labels = labels.and_then(|node| source::read_labels(&node));
    let port = fields.and_then(|fields| fields.node("inferencePort"));
    Selection {
        namespace,
        labels: labels.unwrap_or_else(|| BTreeMap::from([("app".into(), "vllm".into())])),
        port: port
            .and_then(|node| source::read_port(&node))
            .unwrap_or(Port::Number(8000)),
        resync: fields
            .and_then(|fields| fields.duration("interval"))
            .unwrap_or(Duration::from_secs(5)),
        timeout: fields
            .and_then(|fields| fields.duration("timeout"))
            .unwrap_or(Duration::from_secs(10)),
        event_ports: None,
    }
}

fn read_collector(app: &Fields<'_>) -> (Engine, CollectorConfig) {
    let fields = app
        .node("collector")
        .and_then(|node| node.fields(&COLLECTOR));
    let fields = fields.as_ref();
    let engine = fields
        .and_then(|fields| fields.one_of("type"))
        .and_then(Engine::of)
        .unwrap_or_default();
    let interval = fields
        .and_then(|fields| fields.duration("interval"))
        .unwrap_or(Duration::from_secs(5));
    let timeout = fields
        .and_then(|fields| fields.duration("timeout"))
        .unwrap_or(Duration::from_secs(10));
    if let Some(node) = fields.and_then(|fields| fields.node("metrics")) {
        warn_unread(&node);
    }
    (engine, CollectorConfig::new(engine, interval, timeout))
}

/// The original lets one name what to collect; here the strategies' needs decide, and a name beyond them has no effect.
fn warn_unread(node: &Node<'_>) {
    for item in node
        .items(0, MAX_METRICS, "metric names")
        .unwrap_or_default()
    {
        let Some(name) = item.text("a metric's name") else {
            continue;
        };
        if !METRICS.contains(&name) {
            item.warn(format!(
                "{}: `{name}` is not read; the strategies need {}",
                item.path(),
                METRICS.join(", ")
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use hermes_core::policy::CountScale;

    use super::*;
    use crate::{cache_sources::kv_manager::Dialect, config::Config};

    fn pool(text: &str) -> PoolConfig {
        let config = Config::parse(text).expect("a good block");
        config.pools.into_iter().next().expect("one pool")
    }

    #[test]
    fn the_original_example_means_what_it_meant() {
        let pool = pool(include_str!("../../examples/hermes-router.yaml"));
        let seconds = Duration::from_secs;
        assert_eq!((&*pool.name, pool.engine), (DEFAULT_POOL, Engine::Vllm));
        let selection = Selection {
            namespace: Some("ai-inference".into()),
            labels: BTreeMap::from([("app".into(), "vllm".into())]),
            port: Port::Number(8000),
            resync: seconds(5),
            timeout: seconds(10),
            event_ports: None,
        };
        assert_eq!(pool.sources, [Source::Services(selection)]);
        assert_eq!(pool.policy.strategy.name(), "kv-aware");
        assert_eq!(
            pool.policy.timeouts,
            Timeouts {
                request: seconds(120),
                ..Timeouts::default()
            }
        );
        assert_eq!(
            (pool.collector.interval, pool.collector.timeout),
            (seconds(5), seconds(10))
        );
        let kv_manager = pool.kv_manager.expect("configured");
        assert!(matches!(kv_manager.dialect, Dialect::MatchSort(_)));
        assert_eq!(&*kv_manager.url, "http://10.96.xxx.xxx:8080/match_sort");
    }

    #[test]
    fn a_request_waits_50_ms_for_the_kv_manager_whatever_its_timeout() {
        for timeout in ["1", "10", "0.02"] {
            let pool = pool(&format!(
                "app: {{kvmanager: {{url: 'http://m', timeout: {timeout}}}}}"
            ));
            assert_eq!(
                pool.kv_manager.expect("configured").budget,
                Duration::from_millis(50)
            );
            assert_eq!(pool.policy.score_deadline, Duration::from_millis(70));
            assert!(pool.policy.lookup_text);
        }
    }

    #[test]
    fn a_strategy_that_does_not_look_at_caches_asks_no_kv_manager() {
        let config =
            Config::parse("app: {strategy: rr, kvmanager: {url: 'http://m'}}").expect("accepted");
        assert_eq!(config.pools[0].kv_manager, None);
        assert_eq!(
            config.pools[0].policy.score_deadline,
            Duration::from_millis(20)
        );
        assert!(
            config.warnings[0].starts_with("app.kvmanager"),
            "{:?}",
            config.warnings
        );
    }

    #[test]
    fn what_a_chart_leaves_blank_is_no_kv_manager() {
        let config = Config::parse("app: {kvmanager: {url: '', port: 8080}}").expect("accepted");
        assert_eq!(config.pools[0].kv_manager, None);
        assert_eq!(config.warnings.len(), 1);
    }

    #[test]
    fn weights_bear_the_original_names() {
        let text = "app: {weights: {kvCacheHitNotRateWeight: 2, xpuCacheUsageWeight: 3, waitingRequestWeight: 4, inflightWeight: 5}}";
        let weights = ClassicWeights {
            miss: 2.0,
            usage: 3.0,
            waiting: 4.0,
            in_flight: 5.0,
            scale: CountScale::Max,
        };
        assert_eq!(pool(text).policy.strategy, Strategy::HermesClassic(weights));
    }

    #[test]
    fn weights_that_a_chart_renders_for_another_strategy_are_ignored() {
        assert_eq!(
            pool("app: {strategy: rr, weights: {miss: 2}}")
                .policy
                .strategy,
            Strategy::RoundRobin
        );
    }

    #[test]
    fn a_metric_that_is_not_read_is_worth_a_warning() {
        let text =
            "app: {collector: {metrics: ['vllm:num_requests_waiting', 'vllm:prompt_tokens']}}";
        let config = Config::parse(text).expect("accepted");
        assert_eq!(config.warnings.len(), 1);
        assert!(
            config.warnings[0].contains("vllm:prompt_tokens"),
            "{:?}",
            config.warnings
        );
    }
}
