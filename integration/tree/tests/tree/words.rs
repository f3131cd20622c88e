//! Plain words, in code, comments, documentation, configuration and scripts.

use hermes_tree::{
    assert_none,
    files::{self, File},
    words,
};

/// Files whose words are not ours to choose, or are the list itself.
const FREE: [&str; 5] = [
    "LICENSE",
    "integration/tree/src/words.rs",
    ".ci/commits",
    ".sum",
    ".lock",
];

/// Pages that name what was renamed: what stands in backticks there is free.
const QUOTING: [&str; 3] = [
    "CHANGELOG.md",
    "docs/upgrade-from-hermes-router.md",
    "docs/decisions/0019-",
];

#[test]
fn words_are_plain() {
    let mut complaints = Vec::new();
    for File { path, text } in files::all() {
        // Pages and templates of others, recorded for tests.
        let is_foreign =
            path.contains("/testdata/") || FREE.iter().any(|free| path.ends_with(free));
        if is_foreign {
            continue;
        }
        let is_quoting = QUOTING.iter().any(|page| path.starts_with(page));
        let text = if is_quoting {
            words::without_quotes(&text)
        } else {
            text
        };
        for (line, word, instead) in words::find(&text) {
            complaints.push(format!("{path}:{line}: `{word}`: {instead}"));
        }
    }
    assert_none(
        &complaints,
        "write subject, verb and object in the terms of the field; each line names what might fit",
    );
}
