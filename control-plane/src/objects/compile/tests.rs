use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::*;
use crate::{
    config::{Config, EndpointSource, PoolConfig, PortRef},
    objects::catalog::tests::{object, pool_spec},
};

/// Objects, and what is configured for them.
struct Scene {
    catalog: ObjectCatalog,
    config: InferencePoolsConfig,
}

impl Scene {
    /// The pool `a` of the stable group, with these keys of `inferencePools`.
    fn new(keys: &str) -> Self {
        let config = Config::parse(&format!("inferencePools: {{{keys}}}")).expect("a good file");
        let mut scene = Self {
            catalog: ObjectCatalog::default(),
            config: *config.inference_pools.expect("enabled"),
        };
        scene.apply(ObjectKind::Pool, "a", pool_spec());
        scene
    }

    fn apply(&mut self, kind: ObjectKind, name: &str, spec: Value) {
        self.catalog.apply(kind, &object(name, 1, spec));
    }

    /// One that was created on this day.
    fn apply_aged(&mut self, kind: ObjectKind, name: &str, day: u8, spec: Value) {
        let mut object: DynamicObject = object(name, 1, spec);
        let created = format!("2026-01-{day:02}T00:00:00Z");
        let time = serde_json::from_value(json!(created)).expect("a time");
        object.metadata.creation_timestamp = Some(time);
        self.catalog.apply(kind, &object);
    }

    fn compile(&self) -> CompiledObjects {
        compile(&self.catalog, &self.config, &AdoptedPools::new())
    }

    fn pools(&self) -> Vec<PoolConfig> {
        let fragments = self.compile().fragments.into_iter();
        fragments.map(|fragment| fragment.pool).collect()
    }

    /// What requests for each model are rewritten to.
    fn rewrites(&self) -> Vec<(String, Vec<String>)> {
        let pools = self.pools();
        let rewrites = pools[0].rewrites.iter().map(|rewrite| {
            let targets = rewrite.targets.iter();
            let targets = targets.map(|target| format!("{}:{}", target.model, target.weight));
            let model = rewrite.model.as_deref().unwrap_or("*");
            (model.to_owned(), targets.collect())
        });
        rewrites.collect()
    }

    fn verdict(&self, kind: ObjectKind, name: &str) -> ObjectVerdict {
        let key = (kind, "ai".into(), name.into());
        self.compile().verdicts[&key].clone()
    }
}

fn model(name: &str, targets: &Value) -> Value {
    json!({"modelName": name, "poolRef": {"name": "a"}, "targetModels": targets})
}

fn rewrite(rules: &Value) -> Value {
    json!({"poolRef": {"name": "a"}, "rules": rules})
}

fn refusal(verdict: &ObjectVerdict) -> Option<RefusalReason> {
    match verdict {
        ObjectVerdict::Refused { reason, .. } => Some(*reason),
        ObjectVerdict::Accepted(_) | ObjectVerdict::Foreign => None,
    }
}

#[test]
fn a_pool_has_its_pods_and_the_policy_of_the_file() {
    let mut scene = Scene::new("policy: {strategy: least-request, retry: {maxAttempts: 2}}");
    let mut spec = pool_spec();
    spec["targetPorts"] = json!([{"number": 8000}, {"number": 8001}]);
    spec["targetPortNumber"] = Value::Null;
    spec["extensionRef"] = json!({"name": "epp"});
    scene.apply(ObjectKind::Pool, "a", spec);
    let [pool] = &scene.pools()[..] else {
        panic!("one pool")
    };
    assert_eq!(&*pool.name, "ai/a");
    assert_eq!(pool.policy.strategy.name(), "least-request");
    assert_eq!(pool.policy.retry.max_attempts, 2);
    assert_eq!(&*pool.pickers[0].service, "epp");
    let [EndpointSource::Pods(selection)] = &pool.sources[..] else {
        panic!("pods")
    };
    assert_eq!(selection.namespace.as_deref(), Some("ai"));
    assert_eq!(selection.port, PortRef::Number(8000));
    assert_eq!(selection.further_ports, [8001]);
}

#[test]
fn prefix_cache_is_a_strategy_that_reads_caches() {
    let annotated = |configured: &str| {
        let mut scene = Scene::new(&format!("policy: {{strategy: {configured}}}"));
        let mut pool = object("a", 2, pool_spec());
        let key = "inference.networking.x-k8s.io/routing-strategy".to_owned();
        pool.metadata.annotations = Some([(key, "PREFIX_CACHE".to_owned())].into());
        scene.catalog.apply(ObjectKind::Pool, &pool);
        scene.pools()[0].policy.strategy.name()
    };
    assert_eq!(annotated("least-request"), "kv-aware");
    assert_eq!(
        annotated("prefix-cache"),
        "prefix-cache",
        "it reads caches already"
    );
}

#[test]
fn the_oldest_model_of_a_name_counts() {
    let mut scene = Scene::new("");
    let to = |target| json!([{"name": target, "weight": 1}]);
    scene.apply_aged(ObjectKind::Model, "young", 9, model("chat", &to("x")));
    scene.apply_aged(ObjectKind::Model, "old", 2, model("chat", &to("y")));
    scene.apply_aged(ObjectKind::Model, "older", 1, model("other", &to("z")));
    assert_eq!(
        scene.rewrites(),
        [
            ("other".to_owned(), vec!["z:1".to_owned()]),
            ("chat".to_owned(), vec!["y:1".to_owned()]),
        ]
    );
    let young = scene.verdict(ObjectKind::Model, "young");
    assert_eq!(refusal(&young), Some(RefusalReason::ModelNameInUse));
    assert_eq!(
        scene.verdict(ObjectKind::Model, "old"),
        ObjectVerdict::Accepted(None)
    );
}

#[test]
fn a_model_without_targets_is_served_by_its_own_name() {
    let mut scene = Scene::new("");
    scene.apply(ObjectKind::Model, "m", model("chat", &Value::Null));
    assert_eq!(
        scene.rewrites(),
        [("chat".to_owned(), vec!["chat:1".to_owned()])]
    );
}

#[test]
fn exact_rewrites_go_first_then_older_ones_then_the_first_rule() {
    let mut scene = Scene::new("");
    let exact = |model: &str, target: &str| {
        json!({
            "matches": [{"model": {"type": "Exact", "value": model}}],
            "targets": [{"modelRewrite": target}],
        })
    };
    let generic = json!({"targets": [{"modelRewrite": "g", "weight": 3}]});
    let old = rewrite(&json!([
        generic,
        exact("chat", "first"),
        exact("chat", "second")
    ]));
    scene.apply_aged(ObjectKind::Rewrite, "old", 1, old);
    let young = rewrite(&json!([exact("chat", "third"), exact("code", "c")]));
    scene.apply_aged(ObjectKind::Rewrite, "young", 2, young);
    scene.apply(ObjectKind::Model, "m", model("code", &Value::Null));
    let expected = [("chat", "first:1"), ("code", "c:1"), ("*", "g:3")];
    let expected = expected.map(|(model, target)| (model.to_owned(), vec![target.to_owned()]));
    assert_eq!(scene.rewrites(), expected);
    let verdict = scene.verdict(ObjectKind::Model, "m");
    assert!(
        matches!(verdict, ObjectVerdict::Accepted(Some(_))),
        "{verdict:?}"
    );
}

#[test]
fn a_match_that_is_not_understood_matches_nothing() {
    let mut scene = Scene::new("");
    let regex = json!({
        "matches": [{"model": {"type": "RegularExpression", "value": ".*"}}],
        "targets": [{"modelRewrite": "x"}],
    });
    let good = json!({
        "matches": [{"model": {"value": "chat"}}],
        "targets": [{"modelRewrite": "x"}],
    });
    scene.apply(ObjectKind::Rewrite, "r", rewrite(&json!([regex, good])));
    assert_eq!(
        scene.rewrites(),
        [("chat".to_owned(), vec!["x:1".to_owned()])]
    );
}

#[test]
fn criticality_is_the_priority_of_a_model_whatever_rewrites_it() {
    let mut scene = Scene::new("");
    let critical = |name: &str, criticality: &str| {
        let mut spec = model(name, &Value::Null);
        spec["criticality"] = json!(criticality);
        spec
    };
    scene.apply(
        ObjectKind::Rewrite,
        "r",
        rewrite(&json!([{
            "matches": [{"model": {"value": "c"}}],
            "targets": [{"modelRewrite": "x"}],
        }])),
    );
    for (name, criticality) in [
        ("c", "Critical"),
        ("guide", "Schedulable"),
        ("plain", "Standard"),
        ("shed", "Sheddable"),
        ("typo", "critical"),
    ] {
        scene.apply(ObjectKind::Model, name, critical(name, criticality));
    }
    let pools = scene.pools();
    let priorities: Vec<_> = pools[0]
        .priorities
        .iter()
        .map(|one| (&*one.model, one.priority))
        .collect();
    let expected = [
        ("c", 1),
        ("guide", -1),
        ("plain", 0),
        ("shed", -1),
        ("typo", 0),
    ];
    assert_eq!(priorities, expected);
    let ObjectVerdict::Accepted(Some(note)) = scene.verdict(ObjectKind::Model, "typo") else {
        panic!("a wrong criticality takes nothing away");
    };
    assert!(note.contains("spec.criticality"), "{note}");
}

#[test]
fn objectives_are_priorities_by_name_and_the_newer_group_wins() {
    let mut scene = Scene::new("");
    let objective = |priority: Value| json!({"poolRef": {"name": "a"}, "priority": priority});
    scene.apply(ObjectKind::EarlierObjective, "batch", objective(json!(5)));
    scene.apply(ObjectKind::Objective, "batch", objective(json!(-5)));
    scene.apply(
        ObjectKind::EarlierObjective,
        "plain",
        objective(Value::Null),
    );
    let pools = scene.pools();
    let objectives: Vec<_> = pools[0]
        .objectives
        .iter()
        .map(|objective| (&*objective.name, objective.priority))
        .collect();
    assert_eq!(objectives, [("batch", -5), ("plain", 0)]);
    let superseded = scene.verdict(ObjectKind::EarlierObjective, "batch");
    assert_eq!(refusal(&superseded), Some(RefusalReason::Superseded));
}

#[test]
fn of_two_pools_of_one_name_the_stable_one_counts_until_it_is_deleted() {
    let mut scene = Scene::new("");
    let mut earlier = pool_spec();
    earlier["targetPortNumber"] = json!(9000);
    scene.apply(ObjectKind::EarlierPool, "a", earlier);
    let port = |scene: &Scene| match &scene.pools()[0].sources[0] {
        EndpointSource::Pods(selection) => selection.port.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(port(&scene), PortRef::Number(8000));
    scene.catalog.delete(ObjectKind::Pool, "ai", "a");
    assert_eq!(port(&scene), PortRef::Number(9000));
}

#[test]
fn a_pool_of_another_picker_is_left_to_it_with_all_that_refers_to_it() {
    let mut scene = Scene::new("pickers: [hermes, other/epp]");
    scene.apply(ObjectKind::Model, "m", model("chat", &Value::Null));
    assert_eq!(scene.pools().len(), 1, "it names no picker");
    for (service, served) in [("epp", false), ("hermes", true)] {
        let mut spec = pool_spec();
        spec["extensionRef"] = json!({"name": service});
        scene.apply(ObjectKind::Pool, "a", spec);
        assert_eq!(scene.pools().len(), usize::from(served), "{service}");
        let verdict = scene.verdict(ObjectKind::Model, "m");
        assert_eq!(verdict == ObjectVerdict::Foreign, !served, "{service}");
    }
}

#[test]
fn an_object_for_no_pool_changes_nothing() {
    let mut scene = Scene::new("");
    let elsewhere = json!({"modelName": "chat", "poolRef": {"name": "b"}});
    scene.apply(ObjectKind::Model, "m", elsewhere);
    let kind = json!({"modelName": "chat", "poolRef": {"name": "a", "kind": "Service"}});
    scene.apply(ObjectKind::Model, "s", kind);
    assert!(scene.rewrites().is_empty());
    assert_eq!(
        scene.verdict(ObjectKind::Model, "m"),
        ObjectVerdict::Foreign
    );
    let wrong = scene.verdict(ObjectKind::Model, "s");
    assert_eq!(refusal(&wrong), Some(RefusalReason::Unreadable));
}

#[test]
fn a_faulty_version_is_refused_while_the_last_good_one_serves() {
    let mut scene = Scene::new("");
    let broken = object(
        "a",
        2,
        json!({"selector": {"app": "?"}, "targetPortNumber": 8000}),
    );
    scene.catalog.apply(ObjectKind::Pool, &broken);
    assert_eq!(scene.pools().len(), 1);
    let verdict = scene.verdict(ObjectKind::Pool, "a");
    assert_eq!(refusal(&verdict), Some(RefusalReason::Invalid));
}

#[test]
fn a_pool_of_another_picker_that_is_adopted_asks_it_and_has_nothing_else_of_this_router() {
    let mut scene = Scene::new("pickers: [hermes]");
    let mut spec = pool_spec();
    spec["extensionRef"] = json!({"name": "epp"});
    spec["appProtocol"] = json!("kubernetes.io/h2c");
    scene.apply(ObjectKind::Pool, "a", spec);
    scene.apply(ObjectKind::Model, "m", model("chat", &Value::Null));
    let asked = AskedPicker {
        authority: "epp.ai.svc:9002".into(),
        tls: true,
        on_failure: hermes_core::inference_pool::PickerFailure::Close,
    };
    let adopted = AdoptedPools::from([(NamespacedName::new("ai", "a"), asked.clone())]);
    let compiled = compile(&scene.catalog, &scene.config, &adopted);
    let [fragment] = &compiled.fragments[..] else {
        panic!("one pool")
    };
    assert_eq!(fragment.pool.asked_picker, Some(asked));
    assert!(fragment.pool.http2 && fragment.pool.rewrites.is_empty());
    let key = (ObjectKind::Model, "ai".into(), "m".into());
    assert_eq!(compiled.verdicts[&key], ObjectVerdict::Foreign);
}
