//! Names say of what: files are named for what they hold, and a type's name is unique.

use std::collections::BTreeMap;

use hermes_tree::{assert_none, files, modules::targets};

/// Names of files that say nothing about what they hold.
const EMPTY_NAMES: [&str; 6] = [
    "utils.rs",
    "util.rs",
    "common.rs",
    "helpers.rs",
    "types.rs",
    "misc.rs",
];

/// The crates whose types a reader meets together.
const CRATES: [&str; 5] = [
    "core/src/",
    "proto/src/",
    "runtime/src/",
    "control-plane/src/",
    "data-plane/src/",
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

/// Of structs, enums, traits, unions and aliases in production code; messages that are generated
/// from `proto/proto` are named in their own module, `v1`, and are no part of this.
#[test]
fn a_type_name_is_defined_once() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for target in targets(&files::ending_in(".rs")) {
        if !CRATES.iter().any(|folder| target.root.starts_with(folder)) {
            continue;
        }
        for (path, items) in &target.items {
            for (name, line) in &items.types {
                places
                    .entry(name.clone())
                    .or_default()
                    .push(format!("{path}:{line}"));
            }
        }
    }
    let mut complaints = Vec::new();
    for (name, places) in places {
        if places.len() > 1 {
            complaints.push(format!("{name}: {}", places.join(", ")));
        }
    }
    assert_none(
        &complaints,
        "say of what in the name, as in `ScoreOutcome`, until no other type has it",
    );
}
