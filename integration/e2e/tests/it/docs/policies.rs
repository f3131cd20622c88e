//! `docs/policies.md` against a real explanation.

use std::collections::BTreeSet;

use hermes_bench::fleet::Scene;
use serde_json::Value;

use super::pages;
use crate::client::{client, json_of, send};

#[tokio::test]
async fn every_field_of_an_explanation_is_documented() {
    let fleet = Scene::of(1, "kv-aware").start().await.expect("starts");
    let admin = fleet.control_planes[0]
        .bound
        .admin
        .expect("a fleet has admin ports");
    let (status, explanation) =
        json_of(send(client().get(format!("http://{admin}/debug/score?pool=chat"))).await).await;
    assert_eq!(status, 200);
    assert_eq!(fields_below("| Field | "), keys(&explanation));
    assert_eq!(
        fields_below("| Field of a candidate | "),
        keys(&explanation["candidates"][0])
    );
}

#[tokio::test]
async fn every_strategy_that_is_documented_is_accepted() {
    for strategy in fields_below("| Strategy | ") {
        assert!(Scene::of(1, &strategy).start().await.is_ok(), "{strategy}");
    }
}

/// The first cells of the table whose head begins so.
fn fields_below(head: &str) -> BTreeSet<String> {
    let page = pages::read("policies");
    let rows = page
        .lines()
        .skip_while(|line| !line.starts_with(head))
        .skip(2);
    let rows = rows.take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| Some(row.split('`').nth(1)?.to_owned()))
        .collect()
}

fn keys(object: &Value) -> BTreeSet<String> {
    object
        .as_object()
        .expect("an object")
        .keys()
        .cloned()
        .collect()
}
