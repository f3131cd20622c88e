use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// An object of the namespace `ai`, as the API server sends it.
pub(in crate::objects) fn object(name: &str, generation: i64, spec: Value) -> DynamicObject {
    let metadata = json!({
        "namespace": "ai", "name": name, "generation": generation,
        "creationTimestamp": "2026-01-01T00:00:00Z",
    });
    let object = json!({"apiVersion": "x/v1", "kind": "X", "metadata": metadata});
    let mut object: DynamicObject = serde_json::from_value(object).expect("an object");
    object.data["spec"] = spec;
    object
}

pub(in crate::objects) fn pool_spec() -> Value {
    json!({"selector": {"app": "qwen"}, "targetPortNumber": 8000})
}

fn ports(catalog: &ObjectCatalog) -> Vec<(Vec<u16>, usize)> {
    let entries = catalog.iter().map(|(_, entry)| {
        let Some(ObjectSpec::Pool(pool)) = entry.spec() else {
            return (Vec::new(), entry.faults.len());
        };
        (pool.ports.clone(), entry.faults.len())
    });
    entries.collect()
}

#[test]
fn a_faulty_version_leaves_the_last_good_one_and_a_corrected_one_replaces_it() {
    let mut catalog = ObjectCatalog::default();
    let mut spec = pool_spec();
    assert!(catalog.apply(ObjectKind::EarlierPool, &object("a", 1, spec.clone())));
    assert!(
        !catalog.apply(ObjectKind::EarlierPool, &object("a", 1, spec.clone())),
        "no news"
    );
    spec["targetPortNumber"] = json!(0);
    assert!(catalog.apply(ObjectKind::EarlierPool, &object("a", 2, spec.clone())));
    assert_eq!(ports(&catalog), [(vec![8000], 1)]);
    spec["targetPortNumber"] = json!(9000);
    assert!(catalog.apply(ObjectKind::EarlierPool, &object("a", 3, spec)));
    assert_eq!(ports(&catalog), [(vec![9000], 0)]);
}

#[test]
fn an_object_that_never_was_good_is_known_by_its_faults_alone() {
    let mut catalog = ObjectCatalog::default();
    assert!(catalog.apply(ObjectKind::Pool, &object("a", 1, json!({}))));
    assert_eq!(ports(&catalog), [(vec![], 2)]);
    assert!(catalog.delete(ObjectKind::Pool, "ai", "a"));
    assert!(ports(&catalog).is_empty());
}

#[test]
fn an_object_that_was_created_again_inherits_nothing() {
    let mut catalog = ObjectCatalog::default();
    catalog.apply(ObjectKind::Pool, &object("a", 1, pool_spec()));
    let mut again = object("a", 1, json!({}));
    again.metadata.creation_timestamp = None;
    catalog.apply(ObjectKind::Pool, &again);
    assert_eq!(ports(&catalog), [(vec![], 2)]);
}

#[test]
fn an_object_that_waits_for_its_finalizers_is_gone() {
    let mut catalog = ObjectCatalog::default();
    let mut pool = object("a", 1, pool_spec());
    catalog.apply(ObjectKind::Pool, &pool);
    pool.metadata.deletion_timestamp = pool.metadata.creation_timestamp.clone();
    assert!(catalog.apply(ObjectKind::Pool, &pool));
    assert!(ports(&catalog).is_empty());
    assert!(!catalog.delete(ObjectKind::Pool, "ai", "a"), "no news");
}

#[test]
fn what_has_no_bearing_is_no_news() {
    let mut catalog = ObjectCatalog::default();
    let mut annotated = object("a", 1, pool_spec());
    catalog.apply(ObjectKind::Pool, &annotated);
    annotated.metadata.resource_version = Some("7".to_owned());
    annotated.data["status"] = json!({"parents": []});
    assert!(!catalog.apply(ObjectKind::Pool, &annotated));
}

/// Any JSON, with the keys of the objects often enough.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        prop_oneof![
            Just("Exact"),
            Just("Service"),
            Just("InferencePool"),
            Just("http"),
            Just("Critical"),
            Just("inference.networking.k8s.io"),
            Just("qwen"),
        ]
        .prop_map(Value::from),
        (1..9_i64).prop_map(|port| Value::from(port * 1_000)),
    ];
    let key = prop_oneof![
        8 => proptest::sample::select(vec![
            "spec", "selector", "matchLabels", "targetPorts", "targetPortNumber", "number", "name",
            "endpointPickerRef", "extensionRef", "port", "poolRef", "group", "kind", "modelName",
            "targetModels", "targets", "weight", "modelRewrite", "rules", "matches", "model",
            "type", "value", "priority", "appProtocol", "criticality",
        ]).prop_map(str::to_owned),
        1 => "\\PC{0,8}",
    ];
    leaf.prop_recursive(6, 96, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::btree_map(key.clone(), inner, 0..8).prop_map(Value::from_iter),
        ]
    })
}

proptest! {
    #[test]
    fn any_object_is_usable_or_has_faults(
        which in 0..ObjectKind::ALL.len(), spec in json_value(), annotation in "\\PC{0,12}",
    ) {
        let mut object = object("a", 1, spec);
        let key = "inference.networking.x-k8s.io/routing-strategy".to_owned();
        object.metadata.annotations = Some([(key, annotation)].into());
        let (spec, faults) = ObjectSpec::read(ObjectKind::ALL[which], &object);
        prop_assert!(spec.is_some() || !faults.is_empty());
        if let Some(ObjectSpec::Pool(pool)) = spec {
            prop_assert!(!pool.labels.is_empty() && (1..=8).contains(&pool.ports.len()));
        }
    }

    #[test]
    fn an_object_that_is_no_mapping_has_faults(which in 0..ObjectKind::ALL.len(), data in json_value()) {
        let mut object = object("a", 1, Value::Null);
        object.data = data;
        let (spec, faults) = ObjectSpec::read(ObjectKind::ALL[which], &object);
        prop_assert!(spec.is_some() || !faults.is_empty());
    }
}
