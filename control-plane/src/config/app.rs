//! The block `app` of the original hermes-router, which becomes the pool `default`.
//!
//! Its keys keep their meaning and their defaults, so that an existing `values.yaml` works
//! unchanged; see `docs/configuration.md` for what each does here.

use std::time::Duration;

use hermes_core::{
    address::ServerScheme,
    policy::{ClassicWeights, PoolPolicy, Strategy, Timeouts},
};

use super::{
    DEFAULT_POOL,
    collector::CollectorConfig,
    duration::{DAY, MINUTE, SECOND},
    engine::EngineKind,
    key::ValueType,
    kv_manager,
    node::Node,
    origin::ConfigOrigin,
    pool::{PoolFragment, PoolParts, section::record},
    section::Section,
    source::{self, EndpointSource, KubernetesSelection, PortRef, SelectorLabels},
    strategy,
};
use crate::discovery::RoleNames;

/// What the strategies read of an engine, under its old and new names.
const METRICS: [&str; 4] = [
    "vllm:gpu_cache_usage_perc",
    "vllm:kv_cache_usage_perc",
    "vllm:num_requests_waiting",
    "vllm:num_requests_running",
];

/// Most metric names that are read.
const MAX_METRICS: usize = 100;

/// Time between two full lists, and between two scrapes, as in the original.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long one scrape may take, as in the original.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The pool that the block describes.
pub(super) fn read(section: &mut Section<'_>) -> PoolFragment {
    let namespace = source::namespace(section);
    let policy = read_policy(section);
    let selection = section.section(
        "discovery",
        "The Services whose endpoints are used.",
        read_discovery,
    );
    let (engine, collector) = section.section(
        "collector",
        "How the engines' metrics are scraped.",
        read_collector,
    );
    let kv_manager = section.optional_section(
        "kvmanager",
        "The global KV-cache manager.",
        kv_manager::read_original,
    );
    let selection = KubernetesSelection {
        namespace,
        ..selection
    };
    let parts = PoolParts {
        engine,
        policy,
        sources: vec![EndpointSource::Services(selection)],
        collector,
        kv_manager: kv_manager.flatten(),
        ..PoolParts::new(DEFAULT_POOL.into())
    };
    let (pool, issues) = parts.check();
    for issue in issues {
        let key = match issue.key {
            "kvManager" => "kvmanager",
            key => key,
        };
        record(section, key, &issue);
    }
    PoolFragment {
        origin: ConfigOrigin::File(section.path().to_owned()),
        pool,
    }
}

fn read_policy(section: &mut Section<'_>) -> PoolPolicy {
    let defaults = PoolPolicy::default();
    let strategy = strategy::key(
        section,
        "`kv-aware` or `round-robin` (also `roundrobin`, `rr`), or any strategy of a pool.",
    )
    .or(defaults.strategy);
    let strategy = weighted(section, strategy);
    // Streams have timeouts of their own.
    let request = section
        .duration(
            "timeout",
            SECOND / 100..=DAY,
            "Time of a non-streaming request, from sending it to the last byte of its response.",
        )
        .or(defaults.timeouts.request);
    PoolPolicy {
        strategy,
        timeouts: Timeouts {
            request,
            ..defaults.timeouts
        },
        ..defaults
    }
}

/// A chart renders `weights` whatever the strategy is, so they are always checked. Weights other
/// than the defaults select the score that they belong to, which the original called `kv-aware`.
fn weighted(section: &mut Section<'_>, strategy: Strategy) -> Strategy {
    let weights = section.optional_section(
        "weights",
        "Weights, by the names of `pools[].strategy.weights`; others than the defaults select `hermes-classic`.",
        strategy::read_weights,
    );
    let Some(weights) = weights else {
        return strategy;
    };
    if section.has_inside("strategy", "weights") {
        section.error(
            "weights",
            "weights are set in `strategy` too",
            "set them once",
        );
    }
    match strategy {
        Strategy::HermesClassic(_) => Strategy::HermesClassic(weights),
        Strategy::KvAware(_) if weights != ClassicWeights::default() => {
            Strategy::HermesClassic(weights)
        }
        other => other,
    }
}

fn read_discovery(section: &mut Section<'_>) -> KubernetesSelection {
    section
        .one_of("type", &[("k8s-service", ())], "What is discovered.")
        .or(());
    let resync = section
        .duration(
            "interval",
            SECOND..=DAY,
            "Time between two full lists; changes are watched in between.",
        )
        .or(INTERVAL);
    let labels = source::labels(
        section,
        "labelSelector",
        "Labels of the Services whose endpoints are used.",
    )
    .or(SelectorLabels::from([("app".into(), "vllm".into())]));
    KubernetesSelection {
        namespace: None,
        labels,
        port: source::port(section, "inferencePort").or(PortRef::Number(8000)),
        further_ports: Vec::new(),
        // The original knows no other.
        scheme: Some(ServerScheme::Http),
        resync,
        timeout: source::api_timeout(section),
        event_ports: None,
        role_names: RoleNames::default(),
    }
}

fn read_collector(section: &mut Section<'_>) -> (EngineKind, CollectorConfig) {
    let engine = section
        .one_of(
            "type",
            &EngineKind::ALL,
            "The engine; the original supported only `vllm`.",
        )
        .or(EngineKind::default());
    let interval = section
        .duration(
            "interval",
            SECOND / 10..=MINUTE * 10,
            "Time between two scrapes of an endpoint.",
        )
        .or(INTERVAL);
    let timeout = section
        .duration(
            "timeout",
            SECOND / 100..=MINUTE * 5,
            "How long one scrape may take.",
        )
        .or(TIMEOUT);
    section
        .value(
            "metrics",
            ValueType::Texts(format!("0 to {MAX_METRICS} metric names")),
            "Accepted and not needed: what the strategies read is always scraped. Other names cause a warning.",
            warn_unread,
            |()| "[]".to_owned(),
        )
        .or(());
    (engine, CollectorConfig::new(engine, interval, timeout))
}

/// The original has a list of what to collect; here the strategies decide, and other names have no
/// effect.
fn warn_unread(node: &Node<'_>) -> Option<()> {
    for item in node.items(&(0..=MAX_METRICS), "metric names")? {
        let Some(name) = item.text("a metric's name") else {
            continue;
        };
        if !METRICS.contains(&name) {
            let (path, needed) = (item.path(), METRICS.join(", "));
            let warning = format!("{path}: `{name}` is not read; the strategies need {needed}");
            item.diagnostics().warn(warning);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use hermes_core::policy::CountScale;

    use super::*;
    use crate::{
        cache_sources::kv_manager::Dialect,
        config::{Config, PoolConfig},
    };

    fn pool(text: &str) -> PoolConfig {
        let config = Config::parse(text).expect("a good block");
        config.pools.into_iter().next().expect("one pool")
    }

    #[test]
    fn the_original_example_means_what_it_meant() {
        let pool = pool(include_str!("../../examples/hermes-router.yaml"));
        let seconds = Duration::from_secs;
        assert_eq!((&*pool.name, pool.engine), (DEFAULT_POOL, EngineKind::Vllm));
        let selection = KubernetesSelection {
            namespace: Some("ai-inference".into()),
            labels: SelectorLabels::from([("app".into(), "vllm".into())]),
            port: PortRef::Number(8000),
            further_ports: Vec::new(),
            scheme: Some(ServerScheme::Http),
            resync: seconds(5),
            timeout: seconds(10),
            event_ports: None,
            role_names: RoleNames::default(),
        };
        assert_eq!(pool.sources, [EndpointSource::Services(selection)]);
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
