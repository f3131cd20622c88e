//! What a pool's parts mean together, and that every key of the full example arrives.

use std::{path::Path, time::Duration};

use hermes_core::{
    address::ServerScheme,
    policy::{
        ClassicWeights, CountScale, DisaggregationPolicy, EjectionPolicy, EndpointTrust,
        PairDialect, PairFallback, PrefixCacheRules, ProxySettings, RetryPolicy, TenantKey,
        Timeouts,
    },
    snapshot::Role,
};

use super::*;
use crate::{
    cache_sources::kv_manager::{Conductor, Dialect, Encoding, EventSource, Registration},
    cache_sources::tokenizer::{ContentFormat, TokenizerFiles, Way},
    config::{Config, PortRef},
};

fn full() -> Config {
    Config::parse(include_str!("../../../examples/full.yaml")).expect("a good file")
}

#[test]
fn the_objects_of_the_full_example_arrive() {
    let config = full();
    let code = config.pools.iter().find(|pool| &*pool.name == "code");
    let code = code.expect("it is in the file");
    let targets: Vec<(&str, u32)> = code.rewrites[0]
        .targets
        .iter()
        .map(|target| (&*target.model, target.weight))
        .collect();
    assert_eq!(code.rewrites[0].model.as_deref(), Some("coder"));
    assert_eq!(targets, [("coder-32b", 70), ("coder-lora", 30)]);
    assert_eq!(code.rewrites[1].model, None);
    let picker = PickerReference {
        namespace: "ai-inference".into(),
        service: "code-picker".into(),
        port: 9_002,
    };
    assert_eq!((code.pickers.len(), &code.pickers[0]), (2, &picker));
    assert_eq!(code.objectives.len(), 2);
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
        trust: EndpointTrust::Authorities("".into()),
        disaggregation: None,
    };
    assert_eq!(chat.policy, policy);
    assert_eq!(
        chat.models,
        ["Qwen/Qwen3-8B".into(), "sql-adapter".into()] as [Arc<str>; 2]
    );
    let [
        EndpointSource::Static(urls),
        EndpointSource::Services(selection),
    ] = &chat.sources[..]
    else {
        panic!("two sources")
    };
    assert_eq!(
        (urls.len(), &selection.port),
        (2, &PortRef::Name("http".into()))
    );
    assert_eq!(selection.scheme, Some(ServerScheme::Https));
    let tls = EndpointTlsConfig {
        ca_file: Some(Path::new("/etc/hermes/engines/ca.crt").into()),
        server_name: "engines.ai-inference.svc".parse().ok(),
    };
    assert_eq!(chat.tls, tls);
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
        max_priority: 3,
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
    assert_eq!(code.lanes, Some(4));
    let rules = PrefixCacheRules {
        threshold: 0.4,
        load_factor: 2.0,
    };
    assert_eq!(drafts.policy.strategy, Strategy::PrefixCache(rules));
    let [roles @ .., EndpointSource::Pods(selection)] = &agents.sources[..] else {
        panic!("pods are the last source: {:?}", agents.sources)
    };
    let names = &selection.role_names;
    assert_eq!(
        (names.role_label.as_deref(), names.group_label.as_deref()),
        (
            Some("app.kubernetes.io/component"),
            Some("app.kubernetes.io/name")
        )
    );
    let leader = ("pd-proxy".to_owned(), Role::Leader);
    assert!(names.values.len() == 4 && names.values.contains(&leader));
    let roles = roles.iter().map(|source| match source {
        EndpointSource::StaticRole(role, urls) => (*role, urls.len()),
        other => panic!("endpoints with a role: {other:?}"),
    });
    let expected = [Role::Prefill, Role::Decode, Role::Both, Role::Leader].map(|role| (role, 1));
    assert!(roles.eq(expected));
    let expected = DisaggregationPolicy {
        dialect: PairDialect::Sglang,
        fallback: PairFallback::Aggregate,
        min_uncached_tokens: 1_000,
        lease: millis(60_000),
        bootstrap_port: std::num::NonZeroU16::new(8_997).expect("a port"),
    };
    assert_eq!(agents.policy.disaggregation, Some(expected));
    assert_eq!(
        (agents.engine, embeddings.engine),
        (EngineKind::Sglang, EngineKind::OpenAi)
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
            send_timeout: millis(90_000),
            keep_alive_timeout: millis(75_000),
            expose_endpoint: true,
            extra_paths: vec!["/v2/embed".into()],
            cors_origins: vec!["https://chat.example.com".into()],
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
        key_file: None,
    };
    assert_eq!(code.tokenizer.as_ref(), Some(&settings));
    assert_eq!(
        code.policy.score_deadline,
        Duration::from_millis(20 + 50 + 30)
    );
}

#[test]
fn a_conductor_needs_a_tokenizer_and_an_unused_tokenizer_causes_a_warning() {
    let pool = |rest: &str| {
        Config::parse(&format!(
            "pools: [{{name: a, endpoints: ['http://h:1'], {rest}}}]"
        ))
    };
    let errors = pool("kvManager: {protocol: conductor, url: 'http://c'}")
        .expect_err("no tokens")
        .to_string();
    assert!(errors.contains("pools[0].tokenizer"), "{errors}");
    let config = pool("tokenizer: {engine: true}").expect("accepted");
    assert!(
        config.warnings[0].contains("nothing needs token ids"),
        "{:?}",
        config.warnings
    );
    assert!(!config.pools[0].policy.lookup_text && config.pools[0].tokenizer.is_none());
}

#[test]
fn lanes_are_1_to_64_and_only_for_a_strategy_that_counts_them() {
    let pool = |rest: &str| {
        Config::parse(&format!(
            "pools: [{{name: a, endpoints: ['http://h:1'], {rest}}}]"
        ))
    };
    assert_eq!(
        pool("lanes: 8").expect("a good file").pools[0].lanes,
        Some(8)
    );
    assert_eq!(pool("").expect("a good file").pools[0].lanes, None);
    for lanes in ["0", "65", "many", "1.5"] {
        let errors = pool(&format!("lanes: {lanes}"))
            .expect_err(lanes)
            .to_string();
        assert!(
            errors.contains("pools[0].lanes") && errors.contains("1 to 64"),
            "{errors}"
        );
    }
    let config = pool("lanes: 8, strategy: round-robin").expect("accepted");
    assert!(
        config.warnings[0].contains("does not count lanes"),
        "{:?}",
        config.warnings
    );
    assert_eq!(config.pools[0].lanes, None);
}

#[test]
fn an_engine_with_another_metrics_path_has_it_by_default() {
    let text =
        "pools: [{name: a, engine: trtllm, endpoints: ['http://h:1'], metrics: {interval: 4s}}]";
    let config = Config::parse(text).expect("a good file");
    let collector = &config.pools[0].collector;
    assert_eq!(&*collector.path, "/prometheus/metrics");
    assert_eq!(collector.stale_after, Duration::from_secs(12));
}

#[test]
fn settings_without_an_effect_and_versions_in_paths_cause_warnings() {
    let warnings = |pool: &str| {
        let config = Config::parse(&format!("pools: [{{name: a, {pool}}}]"));
        config.expect("accepted").warnings.concat()
    };
    let secured = "endpoints: ['https://h'], tls: {serverName: h}";
    assert_eq!(warnings(secured), "");
    let plain = warnings("endpoints: ['http://h'], tls: {serverName: h}");
    assert!(
        plain.contains("no endpoint is at an https address"),
        "{plain}"
    );
    let pods = "kubernetes: {pods: {a: b}, port: 80}, tls: {}";
    assert!(warnings(pods).contains("no effect"));
    let services = "kubernetes: {services: {a: b}, port: 80}, tls: {serverName: h}";
    assert_eq!(warnings(services), "", "the Service's port may say https");
    let version = warnings("endpoints: ['https://h/api/v1/']");
    assert!(
        version.contains("requests will go to /api/v1/v1/"),
        "{version}"
    );
}
