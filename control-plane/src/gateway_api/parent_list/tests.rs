use super::*;
use crate::gateway_api::condition::StatusCondition;

const THEN: &str = "2026-01-01T00:00:00Z";
const NOW: &str = "2026-02-01T00:00:00Z";

fn conditions(is_accepted: bool) -> ConditionList {
    let accepted = if is_accepted {
        StatusCondition::holds("Accepted", "Accepted", "attached")
    } else {
        StatusCondition::fails("Accepted", "NoMatchingParent", "no listener")
    };
    ConditionList::new(3, vec![accepted])
}

fn gateway(name: &str) -> ParentReference {
    ParentReference::Gateway(NamespacedName::new("infra", name))
}

fn list(parents: &[(&str, bool)]) -> ParentList {
    let parent = |(name, is_accepted): &(&str, bool)| (gateway(name), conditions(*is_accepted));
    ParentList {
        controller: "hermes.ai/gateway".into(),
        form: ParentForm::Named,
        parents: parents.iter().map(parent).collect(),
    }
}

fn theirs(name: &str) -> Value {
    json!({
        "parentRef": {"name": name, "namespace": "infra"},
        "controllerName": "example.com/gateway",
        "conditions": [{"type": "Accepted", "status": "Unknown"}],
    })
}

fn names(list: &Value) -> Vec<&str> {
    let list = list.as_array().expect("a list").iter();
    list.filter_map(|entry| entry["parentRef"]["name"].as_str())
        .collect()
}

#[test]
fn entries_of_others_stay_as_and_where_they_are() {
    let before = list(&[("a", true), ("b", true)]).wanted(None, THEN);
    let mut observed = before.as_array().expect("a list").clone();
    observed.insert(1, theirs("other"));
    observed.push(theirs("last"));
    let observed = Value::Array(observed);

    let wanted = list(&[("c", true), ("b", false)]).wanted(Some(&observed), NOW);
    assert_eq!(names(&wanted), ["other", "b", "last", "c"]);
    assert_eq!(wanted[0], theirs("other"));
    assert_eq!(wanted[2], theirs("last"));
    assert_eq!(wanted[1]["conditions"][0]["lastTransitionTime"], NOW);
    assert_eq!(wanted[1]["controllerName"], "hermes.ai/gateway");
    let none = list(&[]).wanted(Some(&observed), NOW);
    assert_eq!(names(&none), ["other", "last"]);
}

#[test]
fn what_was_written_is_what_is_wanted_and_keeps_its_time() {
    let list = list(&[("a", true), ("b", false)]);
    let written = list.wanted(Some(&json!([theirs("other")])), THEN);
    assert_eq!(list.wanted(Some(&written), NOW), written);
}

#[test]
fn an_entry_of_the_same_gateway_by_another_controller_is_not_this_ones() {
    let mut foreign = theirs("a");
    foreign["parentRef"] = gateway("a").to_json();
    let observed = json!([foreign]);
    let wanted = list(&[("a", true)]).wanted(Some(&observed), NOW);
    assert_eq!(names(&wanted), ["a", "a"]);
    assert_eq!(wanted[0], foreign);
    assert!(!list(&[]).matters(&json!({"parents": [foreign]})));
}

#[test]
fn entries_without_a_controller_are_this_ones_for_its_gateways_and_replace_the_placeholder() {
    let own = BTreeSet::from([
        NamespacedName::new("infra", "a"),
        NamespacedName::new("infra", "b"),
    ]);
    let of = |parents: &[(&str, bool)]| ParentList {
        form: ParentForm::Unnamed(Arc::new(own.clone())),
        ..list(parents)
    };
    let placeholder = json!({"parentRef": {"kind": "Status", "name": "default"}});
    let stale = json!({"parentRef": {"name": "b", "namespace": "infra"}});
    let other = json!({"parentRef": {"name": "x", "namespace": "infra"}});
    let observed = json!([placeholder, stale, other]);
    let wanted = of(&[("a", true)]).wanted(Some(&observed), NOW);
    assert_eq!(names(&wanted), ["x", "a"]);
    assert_eq!(wanted[1].get("controllerName"), None);
    let none = of(&[]).wanted(Some(&observed), NOW);
    assert_eq!(names(&none), ["default", "x"]);
    assert_eq!(of(&[]).key(), "parent");
}

#[test]
fn a_parent_is_referred_to_as_the_route_does() {
    let parent: ParentRef =
        serde_json::from_value(json!({"name": "a", "sectionName": "http", "port": 80}))
            .expect("a reference");
    let expected = json!({
        "group": "gateway.networking.k8s.io", "kind": "Gateway",
        "name": "a", "sectionName": "http", "port": 80,
    });
    assert_eq!(ParentReference::OfRoute(parent).to_json(), expected);
}

#[test]
fn no_more_parents_are_written_than_the_api_takes() {
    let others: Vec<Value> = (0..40).map(|at| theirs(&at.to_string())).collect();
    let wanted = list(&[("a", true)]).wanted(Some(&Value::Array(others)), NOW);
    assert_eq!(names(&wanted).len(), MAX_PARENTS);
}
