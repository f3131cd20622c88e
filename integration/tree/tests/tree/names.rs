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
const CRATES: [&str; 6] = [
    "core/src/",
    "proto/src/",
    "runtime/src/",
    "translation/src/",
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

/// A section of one word is that of a type; others, such as `Into core`, are headings.
#[test]
fn sections_have_the_name_of_the_type_that_they_implement() {
    let mut complaints = Vec::new();
    for file in files::ending_in(".rs") {
        let mut section: Option<&str> = None;
        for (at, line) in file.text.lines().enumerate() {
            if let Some(name) = section_name(line) {
                section = Some(name);
            } else if let (Some(name), Some(implemented)) = (section, implemented_type(line)) {
                if name != implemented && !name.contains(' ') || name.starts_with("impl ") {
                    complaints.push(format!("{}:{}: {name}, {implemented}", file.path, at + 1));
                }
                section = None;
            }
        }
    }
    assert_none(
        &complaints,
        "write `// === Type ===` with the name of the type whose implementation follows",
    );
}

fn section_name(line: &str) -> Option<&str> {
    line.strip_prefix("// === ")?.strip_suffix(" ===")
}

/// The name of the type in the first line of an implementation, without its path and parameters.
fn implemented_type(line: &str) -> Option<&str> {
    let header = line.strip_prefix("unsafe ").unwrap_or(line);
    let header = header.strip_prefix("impl")?;
    if !header.starts_with([' ', '<']) {
        return None;
    }
    let subject = match header.rsplit_once(" for ") {
        Some((_, subject)) => subject,
        None => without_parameters(header),
    };
    let name = subject.trim_start_matches([' ', '&']);
    let end = name.find(['<', ' ', '{']).unwrap_or(name.len());
    name[..end].rsplit("::").next()
}

/// What follows the parameters of an `impl<…>`.
fn without_parameters(header: &str) -> &str {
    let mut depth = 0;
    for (at, character) in header.char_indices() {
        match character {
            '<' => depth += 1,
            '>' if !header[..at].ends_with('-') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return header[at..].trim_start_matches('>');
        }
    }
    header
}

#[test]
fn the_check_itself_reads_the_first_line_of_implementations() {
    let cases = [
        ("impl Scheduler {", "Scheduler"),
        ("impl<T: Keyed> Collection<T> {", "Collection"),
        (
            "impl<'a, F: Fn() -> u8> Iterator for walk::Walk<'a, F> {",
            "Walk",
        ),
        ("unsafe impl Send for Slot {}", "Slot"),
        ("impl From<&Policy> for v1::Policy {", "Policy"),
    ];
    for (line, name) in cases {
        assert_eq!(implemented_type(line), Some(name), "{line}");
    }
    assert_eq!(implemented_type("implausible();"), None);
}
