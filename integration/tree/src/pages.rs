//! The pages that people read: Markdown at the root, below `docs` and below `charts`.

use crate::files::{self, File};

/// Every page, by path.
#[must_use]
pub fn all() -> Vec<File> {
    let mut pages = files::ending_in(".md");
    pages.retain(|page| {
        let is_at_root = !page.path.contains('/');
        is_at_root || page.path.starts_with("docs/") || page.path.starts_with("charts/")
    });
    pages
}

/// The lines of a page that are not inside a fenced block, numbered from 1.
pub fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((at + 1, line))
    })
}

/// What stands in backticks on one line.
pub fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn fenced_lines_are_no_prose() {
    let text = "one `x`\n```text\ntwo\n```\nthree";
    assert_eq!(
        prose(text).collect::<Vec<_>>(),
        [(1, "one `x`"), (5, "three")]
    );
    assert_eq!(quoted("a `b` c `d e`").collect::<Vec<_>>(), ["b", "d e"]);
}
