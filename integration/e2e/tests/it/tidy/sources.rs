//! Sizes, names, orphans, and words that must not be in code.

use super::tree::{self, File, code, none};
use std::collections::BTreeMap;

const LINES: usize = 500;

/// Names that say nothing about what a file holds.
const EMPTY_NAMES: [&str; 6] = [
    "utils.rs",
    "util.rs",
    "common.rs",
    "helpers.rs",
    "types.rs",
    "misc.rs",
];

/// What reads a clock, draws lots or touches the world.
const IMPURE: [&str; 8] = [
    "Instant",
    "SystemTime",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "thread_rng",
];

/// Where the production code of the planes and what they stand on lies.
const SERVING: [&str; 4] = [
    "runtime/src/",
    "control-plane/src/",
    "data-plane/src/",
    "proto/src/",
];

#[test]
fn files_stay_readable() {
    let long = tree::files(".rs")
        .into_iter()
        .map(|file| (file.text.lines().count(), file.path));
    let long = long
        .filter(|(lines, _)| *lines > LINES)
        .map(|(lines, path)| format!("{path}: {lines} lines"));
    none(
        &long.collect::<Vec<_>>(),
        "split by noun, so that no file is longer than 500 lines",
    );
}

#[test]
fn files_are_named_for_what_they_hold() {
    let vague = paths(|file| {
        EMPTY_NAMES
            .iter()
            .any(|name| file.path.ends_with(&format!("/{name}")))
    });
    none(&vague, "name the file for the one thing that it holds");
    let old_style = paths(|file| file.path.ends_with("/mod.rs"));
    none(
        &old_style,
        "write `name.rs` beside the directory `name`, not `name/mod.rs`",
    );
}

#[test]
fn every_file_is_part_of_a_crate() {
    let files: BTreeMap<String, String> = tree::files(".rs")
        .into_iter()
        .map(|file| (file.path, file.text))
        .collect();
    let orphans = files
        .keys()
        .filter(|path| !is_declared(path, &files))
        .cloned();
    none(
        &orphans.collect::<Vec<_>>(),
        "declare the file by `mod` in its parent, or delete it: nothing compiles it now",
    );
}

#[test]
fn no_test_is_switched_off() {
    let needle = concat!("#[", "ignore");
    none(
        &lines(".rs", |_, line| line.trim_start().starts_with(needle)),
        "make the test fast and sure, or delete it",
    );
}

#[test]
fn core_reads_no_clock_and_touches_no_world() {
    let impure = lines(".rs", |file, line| {
        file.path.starts_with("core/src/") && IMPURE.iter().any(|word| code(line).contains(word))
    });
    none(
        &impure,
        "take the age, sample or random number as an argument",
    );
}

#[test]
fn no_task_is_detached() {
    let detached = serving_lines(|line| {
        let line = line.trim_start();
        [
            "tokio::spawn(",
            "tokio::task::spawn(",
            "let _ = tokio::spawn(",
        ]
        .iter()
        .any(|start| line.starts_with(start))
    });
    none(
        &detached,
        "give the task an owner: `hermes_runtime::tasks::Tasks`, a `JoinSet`, or a handle that aborts",
    );
}

#[test]
fn nothing_is_left_for_later() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("for ", "now"),
        concat!("as ", "requested"),
    ];
    let left = lines(".rs", |_, line| {
        let comment = line.split_once("//").map_or("", |(_, comment)| comment);
        words.iter().any(|word| comment.contains(word))
    });
    none(
        &left,
        "do it, or write an issue; a comment says what is, not what might be",
    );
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let homes = [
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
        concat!("/ro", "ot/"),
    ];
    let mut complaints = Vec::new();
    for ending in [".rs", ".toml", ".md", ".yaml", ".proto", ".json", ".sh"] {
        complaints.extend(lines(ending, |_, line| {
            homes.iter().any(|home| line.contains(home))
        }));
    }
    let temporary = concat!("\"/t", "mp/");
    complaints.extend(lines(".rs", |_, line| line.contains(temporary)));
    none(
        &complaints,
        "use a path below the repository, or `tempfile` in tests",
    );
}

/// The paths of the files that `wanted` picks.
fn paths(wanted: impl Fn(&File) -> bool) -> Vec<String> {
    tree::files(".rs")
        .into_iter()
        .filter(|file| wanted(file))
        .map(|file| file.path)
        .collect()
}

/// `path:line: text` for each line that `wanted` picks.
fn lines(ending: &str, wanted: impl Fn(&File, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree::files(ending) {
        let picked = file
            .text
            .lines()
            .enumerate()
            .filter(|(_, line)| wanted(&file, line));
        found.extend(picked.map(|(at, line)| format!("{}:{}: {}", file.path, at + 1, line.trim())));
    }
    found
}

/// Like [`lines`], in production code only.
fn serving_lines(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for file in tree::files(".rs") {
        if !SERVING.iter().any(|source| file.path.starts_with(source)) {
            continue;
        }
        let picked = file
            .production()
            .lines()
            .enumerate()
            .filter(|(_, line)| wanted(line));
        found.extend(picked.map(|(at, line)| format!("{}:{}: {}", file.path, at + 1, line.trim())));
    }
    found
}

/// Whether `path` is the root of a target, or its parent module declares it.
fn is_declared(path: &str, files: &BTreeMap<String, String>) -> bool {
    let Some((directory, name)) = path.rsplit_once('/') else {
        return true;
    };
    let folder = directory.rsplit('/').next().unwrap_or_default();
    let is_test = folder == "tests" && !directory.contains("/src/");
    let is_root = is_test
        || matches!(name, "main.rs" | "lib.rs" | "build.rs")
        || matches!(folder, "benches" | "bin" | "examples");
    if is_root {
        return true;
    }
    let declaration = format!("mod {};", name.trim_end_matches(".rs"));
    let parents = [
        format!("{directory}.rs"),
        format!("{directory}/lib.rs"),
        format!("{directory}/main.rs"),
    ];
    parents
        .iter()
        .filter_map(|parent| files.get(parent))
        .any(|text| text.contains(&declaration))
}

#[test]
fn the_check_itself_tells_orphans_from_modules() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let files = BTreeMap::from([
        file("core/src/lib.rs", "pub mod pick;"),
        file("core/src/pick.rs", "mod cost;"),
        file("core/src/pick/cost.rs", ""),
        file("core/src/pick/lost.rs", ""),
        file("integration/e2e/tests/it/main.rs", "mod route;"),
        file("integration/e2e/tests/it/route.rs", ""),
        file("integration/e2e/tests/it/forgotten.rs", ""),
    ]);
    let orphans: Vec<&String> = files
        .keys()
        .filter(|path| !is_declared(path, &files))
        .collect();
    assert_eq!(
        orphans,
        [
            "core/src/pick/lost.rs",
            "integration/e2e/tests/it/forgotten.rs"
        ]
    );
}
