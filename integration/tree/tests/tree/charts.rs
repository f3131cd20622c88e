//! What the charts ask Prometheus for: alerts and dashboard name metrics that exist, and every
//! alert an action.

use std::collections::BTreeSet;

use hermes_tree::files;

use super::metric_names::documented;

/// The files with queries.
const FILES: [&str; 2] = [
    "charts/hermes-router/alerts/hermes.yaml",
    "charts/hermes-router/dashboards/hermes.json",
];

#[test]
fn alerts_and_dashboard_name_metrics_that_exist() {
    let known = documented();
    let exists = |name: &str| {
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        let is_histogram = |name: &str| known.get(name).is_some_and(|kind| kind == "histogram");
        // A histogram itself is no series; its parts are.
        base.is_some_and(is_histogram) || known.contains_key(name) && !is_histogram(name)
    };
    for file in FILES {
        let text = files::read(file);
        let named = names(&text);
        assert!(named.len() > 10, "{file} has queries");
        let unknown: Vec<_> = named.iter().filter(|name| !exists(name)).collect();
        assert!(
            unknown.is_empty(),
            "{file}: write the names as docs/metrics.md has them: {unknown:?}"
        );
    }
}

#[test]
fn every_alert_says_what_to_do() {
    let rules = files::read(FILES[0]);
    let (_, rules) = rules.split_once("- alert: ").expect("there is an alert");
    for rule in rules.split("- alert: ") {
        let name = rule.lines().next().unwrap_or_default();
        for part in [
            "expr: ",
            "severity: ",
            "summary: ",
            "description: ",
            "action: ",
        ] {
            assert!(rule.contains(part), "{name} has no {part}");
        }
    }
}

/// Every word that looks like a metric of ours.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words
        .filter(|word| word.starts_with("hermes_") || word.starts_with("process_"))
        .collect()
}
