//! Files are named for what they hold.

use hermes_tree::{assert_none, files};

/// Names of files that say nothing about what they hold.
const EMPTY_NAMES: [&str; 6] = [
    "utils.rs",
    "util.rs",
    "common.rs",
    "helpers.rs",
    "types.rs",
    "misc.rs",
];

#[test]
fn files_are_named_for_what_they_hold() {
    let rust = files::ending_in(".rs").into_iter();
    let paths: Vec<String> = rust.map(|file| file.path).collect();
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut vague = paths.clone();
    vague.retain(|path| EMPTY_NAMES.contains(&name(path).as_str()));
    assert_none(&vague, "name the file for the one thing that it holds");
    let mut old_style = paths;
    old_style.retain(|path| name(path) == "mod.rs");
    assert_none(
        &old_style,
        "write `name.rs` beside the directory `name`, not `name/mod.rs`",
    );
}
