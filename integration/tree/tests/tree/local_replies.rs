//! Every code by which a proxy answers a request itself is in the table of `docs/metrics.md`, and
//! no other.

use std::collections::BTreeSet;

use hermes_tree::{files, pages};

#[test]
fn every_code_of_a_local_reply_is_documented() {
    let sources = files::ending_in(".rs").into_iter();
    let mut request = sources.filter(|file| file.path.starts_with("data-plane/src/request/"));
    let source = request
        .find(|file| {
            file.text.contains("fn code(self) -> &'static str")
                || file.text.contains("fn code(&self) -> &'static str")
        })
        .expect("local replies have codes");
    let (_, body) = source.text.split_once("fn code(").expect("found by it");
    let (body, _) = body.split_once("\n    }\n").expect("a function ends");
    let codes: BTreeSet<&str> = body
        .lines()
        .filter_map(|line| line.split('"').nth(1))
        .collect();

    let page = files::read("docs/metrics.md");
    let (_, section) = page
        .split_once("\n### `code` of ")
        .expect("the table has a heading");
    let (section, _) = section
        .split_once("\nThe same code")
        .expect("the table has an end");
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeSet<&str> = rows.filter_map(|row| pages::quoted(row).next()).collect();
    assert_eq!(
        documented, codes,
        "left: docs/metrics.md, right: {}",
        source.path
    );
}
