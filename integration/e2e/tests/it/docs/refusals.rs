//! Every code by which a proxy refuses is in the table of `docs/metrics.md`, and no other.

use std::collections::BTreeSet;

use super::pages::{self, Page};

#[test]
fn every_code_of_a_refusal_is_documented() {
    let source = Page::read(&pages::root().join("data-plane/src/request/local_reply.rs")).text;
    let (_, body) = source.split_once("fn code(").expect("refusals have codes");
    let (body, _) = body.split_once("\n    }\n").expect("a function ends");
    let codes: BTreeSet<&str> = body
        .lines()
        .filter_map(|line| line.split('"').nth(1))
        .collect();

    let page = Page::read(&pages::root().join("docs/metrics.md")).text;
    let (_, section) = page
        .split_once("### `code` of `hermes_refusals_total`")
        .expect("the table has a heading");
    let (section, _) = section
        .split_once("\nThe same code")
        .expect("the table has an end");
    let documented: BTreeSet<&str> = section
        .lines()
        .filter_map(|row| row.split('`').nth(1))
        .collect();
    assert_eq!(
        documented, codes,
        "left: docs/metrics.md, right: data-plane/src/request/local_reply.rs"
    );
}
