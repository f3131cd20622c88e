use serde_json::{Value, json};

use super::*;

/// What the specification and these annotations say of a pool in the namespace `ai`, and the paths
/// of what is wrong.
fn read_with(spec: &Value, annotations: &[(&str, &str)]) -> (Option<InferencePool>, Vec<String>) {
    let root = json!({"spec": spec});
    let annotations: Annotations = annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let diagnostics = Diagnostics::default();
    let node = Node::new(&root, "", &diagnostics);
    let pool = super::read(&node, "ai", Some(&annotations));
    let errors = diagnostics.into_errors();
    (
        pool,
        errors.iter().map(|error| error.path.clone()).collect(),
    )
}

fn read(spec: &Value) -> (Option<InferencePool>, Vec<String>) {
    read_with(spec, &[])
}

fn stable() -> Value {
    json!({
        "selector": {"matchLabels": {"app": "qwen"}},
        "targetPorts": [{"number": 8000}, {"number": 8001}],
        "endpointPickerRef": {"name": "epp", "port": {"number": 9003}, "failureMode": "FailOpen"},
    })
}

/// `stable` with another value at a key.
fn with(key: &str, value: Value) -> Value {
    let mut spec = stable();
    spec[key] = value;
    spec
}

fn picker(service: &str, port: u16) -> Option<PickerReference> {
    Some(PickerReference {
        namespace: "ai".into(),
        service: service.into(),
        port,
    })
}

#[test]
fn both_forms_say_the_same() {
    let (pool, faults) = read(&stable());
    let pool = pool.expect("a pool");
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(
        pool.labels,
        SelectorLabels::from([("app".into(), "qwen".into())])
    );
    assert_eq!(pool.ports, [8000, 8001]);
    assert_eq!(pool.picker, picker("epp", 9003));

    let (earlier, faults) = read(&json!({
        "selector": {"app": "qwen"},
        "targetPortNumber": 8000,
        "extensionRef": {"name": "epp"},
    }));
    assert_eq!(faults, Vec::<String>::new());
    let expected = InferencePool {
        ports: vec![8000],
        picker: picker("epp", PICKER_PORT),
        on_failure: PickerFailure::Close,
        ..pool
    };
    assert_eq!(earlier, Some(expected));
}

#[test]
fn without_pods_or_ports_there_is_no_pool() {
    for (key, wrong) in [
        ("selector", json!(null)),
        ("selector", json!({"matchLabels": {}})),
        ("selector", json!("app=qwen")),
        ("targetPorts", json!(null)),
        ("targetPorts", json!([])),
        ("targetPorts", json!([{"number": 0}])),
        ("targetPorts", json!("8000")),
    ] {
        let (pool, faults) = read(&with(key, wrong.clone()));
        assert_eq!(pool, None, "{key}: {wrong}");
        assert_eq!(faults.len(), 1, "{key}: {wrong}: {faults:?}");
    }
}

#[test]
fn a_label_that_cannot_be_read_does_not_widen_the_selection() {
    let labels = json!({"matchLabels": {"app": "qwen", "tier": "not a label"}});
    let (pool, faults) = read(&with("selector", labels));
    assert_eq!(pool, None);
    assert_eq!(faults, ["spec.selector.matchLabels.tier"]);
}

#[test]
fn an_oddity_elsewhere_is_recorded_and_leaves_the_pool() {
    let port_twice = json!([{"number": 8000}, {"number": 8000}, {"name": "x"}, {"number": 8002}]);
    let (pool, faults) = read(&with("targetPorts", port_twice));
    assert_eq!(pool.expect("a pool").ports, [8000, 8002]);
    assert_eq!(
        faults,
        ["spec.targetPorts[1].number", "spec.targetPorts[2].number"]
    );

    for (key, odd) in [
        ("appProtocol", json!("h2c")),
        ("appProtocol", json!(7)),
        (
            "endpointPickerRef",
            json!({"kind": "Deployment", "name": "epp"}),
        ),
        (
            "endpointPickerRef",
            json!({"name": "epp", "port": {"number": 99_999}}),
        ),
        ("endpointPickerRef", json!({"name": ["epp"]})),
        ("endpointPickerRef", json!({})),
    ] {
        let (pool, faults) = read(&with(key, odd.clone()));
        assert!(pool.is_some(), "{key}: {odd}");
        assert_eq!(faults.len(), 1, "{key}: {odd}: {faults:?}");
    }
    for (protocol, http2) in [("http", false), ("kubernetes.io/h2c", true)] {
        let (pool, faults) = read(&with("appProtocol", json!(protocol)));
        assert_eq!(pool.expect("a pool").http2, http2);
        assert!(faults.is_empty(), "{protocol}");
    }
}

#[test]
fn annotations_name_the_strategy_and_the_engine() {
    let strategy = "inference.networking.x-k8s.io/routing-strategy";
    let runtime = "inference.networking.x-k8s.io/model-server-runtime";
    let annotated = |pairs: &[_]| {
        let (pool, faults) = read_with(&stable(), pairs);
        let pool = pool.expect("a pool");
        (pool.wants_prefix_cache, pool.engine, faults.len())
    };
    assert_eq!(annotated(&[(strategy, "PREFIX_CACHE")]), (true, None, 0));
    assert_eq!(annotated(&[(strategy, "DEFAULT")]), (false, None, 0));
    assert_eq!(annotated(&[(strategy, "FASTEST")]), (false, None, 1));
    assert_eq!(
        annotated(&[(runtime, "sglang")]),
        (false, Some(EngineKind::Sglang), 0)
    );
    assert_eq!(
        annotated(&[(runtime, "trt-llm")]),
        (false, Some(EngineKind::TrtLlm), 0)
    );
    assert_eq!(annotated(&[(runtime, "abacus")]), (false, None, 1));
}
