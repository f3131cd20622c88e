//! Metrics that pages name are in the tables of `docs/metrics.md`. That these tables are what both
//! planes expose is a test of the running planes.

use std::collections::BTreeMap;

use hermes_tree::{assert_none, files, pages};

#[test]
fn metrics_that_other_pages_name_are_in_the_tables() {
    let known = documented();
    assert!(known.len() > 50, "docs/metrics.md has tables");
    let mut unknown = Vec::new();
    for page in pages::all() {
        // What was renamed is named there by its old name.
        if page.path == "CHANGELOG.md" || page.path.contains("decisions/") {
            continue;
        }
        for (line, text) in pages::prose(&page.text) {
            let names =
                pages::quoted(text).filter(|name| is_metric(name) && !known.contains_key(*name));
            unknown.extend(names.map(|name| format!("{}:{line}: {name}", page.path)));
        }
    }
    assert_none(&unknown, "write the name as docs/metrics.md has it");
}

/// The name of every metric in the tables, and its type.
pub(super) fn documented() -> BTreeMap<String, String> {
    let page = files::read("docs/metrics.md");
    page.lines().filter_map(row).collect()
}

/// A row whose first of four cells is the name of a metric.
fn row(line: &str) -> Option<(String, String)> {
    let cells: Vec<&str> = line
        .trim()
        .trim_matches('|')
        .split('|')
        .map(str::trim)
        .collect();
    let [name, kind, _, _] = cells[..] else {
        return None;
    };
    let name = name.strip_prefix('`')?.strip_suffix('`')?;
    Some((name.to_owned(), kind.to_owned()))
}

fn is_metric(name: &str) -> bool {
    let is_letter = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    name.starts_with("hermes_") && name.chars().all(is_letter)
}

#[test]
fn the_check_itself_reads_rows_of_metrics_only() {
    let metric = ("a_total".to_owned(), "counter".to_owned());
    assert_eq!(row("| `a_total` | counter | `pool` | A. |"), Some(metric));
    assert_eq!(row("| Name | Type | Labels | Meaning |"), None);
    assert_eq!(row("| `code` | Meaning |"), None);
    assert!(is_metric("hermes_requests_total") && !is_metric("hermes_core::pick"));
}
