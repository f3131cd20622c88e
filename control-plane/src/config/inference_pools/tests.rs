use super::*;
use crate::config::{Config, MAX_POOLS, PoolFragment};

fn parsed(keys: &str) -> Result<Config, String> {
    Config::parse(&format!("inferencePools: {{{keys}}}")).map_err(|errors| errors.to_string())
}

fn section(keys: &str) -> InferencePoolsConfig {
    let config = parsed(keys).expect("a good file");
    *config.inference_pools.expect("enabled")
}

fn reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: "InferencePool",
        group: "inference.networking.k8s.io",
        namespace: "ai".into(),
        name: name.into(),
    }
}

fn object_pool() -> ObjectPool {
    ObjectPool {
        labels: SelectorLabels::from([("app".into(), "qwen".into())]),
        port: 8000,
        further_ports: Vec::new(),
        wants_prefix_cache: false,
        engine: None,
        pickers: Vec::new(),
        asked_picker: None,
        http2: false,
        rewrites: Vec::new(),
        priorities: Vec::new(),
        objectives: Vec::new(),
    }
}

fn fragment(config: &InferencePoolsConfig, name: &str) -> PoolFragment {
    config.fragment(reference(name), object_pool())
}

#[test]
fn a_file_with_objects_needs_no_pools() {
    let config = parsed("").expect("a good file");
    assert!(config.pools.is_empty());
    let pools = config.inference_pools.expect("enabled");
    assert_eq!(pools.namespaces, ObjectNamespaces::Own);
    assert!(pools.write_status);
    let errors = parsed("enabled: false").expect_err("there is no pool");
    assert!(errors.contains("inferencePools"), "{errors}");
}

#[test]
fn what_contradicts_is_an_error_at_its_key() {
    for (keys, path) in [
        (
            "namespaces: [ai], allNamespaces: true",
            "inferencePools.allNamespaces",
        ),
        ("namespaces: [A]", "inferencePools.namespaces[0]"),
        ("pickers: [a/b/c]", "inferencePools.pickers[0]"),
        ("policy: {models: [a]}", "inferencePools.policy.models"),
        (
            "policy: {endpoints: ['http://h:1']}",
            "inferencePools.policy.endpoints",
        ),
        (
            "policy: {disaggregation: {dialect: vllm-nixl, decode: ['http://h:1']}}",
            "inferencePools.policy.disaggregation",
        ),
    ] {
        let errors = parsed(keys).expect_err(keys);
        assert!(errors.contains(path), "{keys}: {errors}");
    }
}

#[test]
fn what_has_no_effect_is_a_warning_once() {
    let config = parsed("policy: {strategy: random, queue: {maxRequests: 5}}");
    let warnings = config.expect("a good file").warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with("inferencePools.policy.queue"),
        "{warnings:?}"
    );
}

#[test]
fn a_picker_without_a_namespace_counts_in_every_one() {
    let pools = section("pickers: [hermes, ai/epp]");
    let is_ours = |namespace, name| pools.pickers.iter().any(|own| own.is(namespace, name));
    assert!(is_ours("any", "hermes") && is_ours("ai", "epp"));
    assert!(!is_ours("any", "epp") && !is_ours("ai", "other"));
}

#[test]
fn the_engine_of_an_object_brings_its_defaults_and_keeps_what_is_configured() {
    let pool = |keys: &str| {
        let pool = ObjectPool {
            engine: Some(EngineKind::TrtLlm),
            ..object_pool()
        };
        section(keys).fragment(reference("a"), pool).pool
    };
    assert_eq!(&*pool("").collector.path, "/prometheus/metrics");
    assert_eq!(&*pool("policy: {metrics: {path: /m}}").collector.path, "/m");
}

#[test]
fn roles_of_the_policy_are_those_of_the_pods() {
    let config = section("policy: {disaggregation: {dialect: sglang, roleLabel: tier}}");
    let pool = fragment(&config, "a").pool;
    let [EndpointSource::Pods(selection)] = &pool.sources[..] else {
        panic!("pods")
    };
    assert_eq!(selection.role_names.role_label.as_deref(), Some("tier"));
    assert!(pool.policy.disaggregation.is_some());
}

#[test]
fn objects_are_added_to_the_pools_of_the_file_up_to_the_limit() {
    let config = Config::parse("pools: [{name: a, endpoints: ['http://h:1']}]\ninferencePools: {}")
        .expect("a good file");
    let pools = config.inference_pools.as_ref().expect("enabled");
    let objects = (0..MAX_POOLS).map(|number| fragment(pools, &format!("p{number:03}")));
    let objects: Vec<PoolFragment> = objects.collect();
    let (merged, refused) = config.with_objects(objects, Vec::new(), Vec::new());
    assert_eq!(merged.pools.len(), MAX_POOLS);
    assert_eq!(&*merged.pools[0].name, "a", "the file's");
    assert_eq!(refused.len(), 1);
    assert!(
        refused[0].origin.to_string().contains("ai/p255"),
        "{refused:?}"
    );

    let twice = vec![fragment(pools, "b"), fragment(pools, "b")];
    let (merged, refused) = config.with_objects(twice, Vec::new(), Vec::new());
    assert_eq!((merged.pools.len(), refused.len()), (2, 1));
}
