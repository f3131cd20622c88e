//! Links and paths in the pages lead to files and headings that exist.

use std::{collections::HashSet, fs, path::Path};

use hermes_tree::{
    assert_none,
    files::{self, File, root},
    pages,
};

/// What a path in backticks begins with when it means a file or folder of this repository.
const FOLDERS: [&str; 9] = [
    "core/",
    "proto/",
    "runtime/",
    "control-plane/",
    "data-plane/",
    "integration/",
    "hermes/",
    "docs/",
    "charts/",
];

#[test]
fn links_lead_to_files_and_headings() {
    let mut dead = Vec::new();
    for page in pages::all() {
        for (line, text) in pages::prose(&page.text) {
            let targets = links(text).filter(|target| !leads_somewhere(&page, target));
            dead.extend(targets.map(|target| format!("{}:{line}: {target}", page.path)));
        }
    }
    assert_none(
        &dead,
        "correct the link, or write the page or heading that it names",
    );
}

#[test]
fn the_index_of_decisions_lists_all_of_them() {
    let index = files::read("docs/decisions/README.md");
    let mut missing = Vec::new();
    for page in pages::all() {
        let Some(file) = page.path.strip_prefix("docs/decisions/0") else {
            continue;
        };
        let heading = page.text.lines().next().unwrap_or_default();
        let (number, title) = heading
            .trim_start_matches("# ")
            .split_once(". ")
            .unwrap_or_default();
        let row = format!("| [{number}](0{file}) | {title} |");
        if !index.contains(&row) {
            missing.push(row);
        }
    }
    assert_none(&missing, "add this row to docs/decisions/README.md");
}

#[test]
fn files_that_the_pages_name_exist() {
    let mut gone = Vec::new();
    for page in pages::all() {
        for (line, text) in pages::prose(&page.text) {
            let paths = named(text).filter(|path| !root().join(path).exists());
            gone.extend(paths.map(|path| format!("{}:{line}: {path}", page.path)));
        }
    }
    assert_none(&gone, "name the new path, or drop it");
}

/// Targets of `[text](target)`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
}

/// A link out of the repository is not followed.
fn leads_somewhere(page: &File, target: &str) -> bool {
    if target.contains("://") || target.starts_with("mailto:") {
        return true;
    }
    let (path, heading) = target
        .split_once('#')
        .map_or((target, None), |(path, heading)| (path, Some(heading)));
    let here = root().join(&page.path);
    let there = if path.is_empty() {
        here
    } else {
        here.parent().unwrap_or(Path::new("")).join(path)
    };
    match heading {
        None => there.exists(),
        Some(heading) => {
            fs::read_to_string(there).is_ok_and(|text| anchors(&text).contains(heading))
        }
    }
}

/// Headings as a forge turns them into anchors: lower case, spaces to hyphens, punctuation dropped.
fn anchors(text: &str) -> HashSet<String> {
    let headings = pages::prose(text).filter_map(|(_, line)| line.strip_prefix('#'));
    let anchor = |heading: &str| -> String {
        let kept = heading
            .trim_start_matches('#')
            .trim()
            .to_lowercase()
            .replace(' ', "-");
        kept.chars()
            .filter(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '_'))
            .collect()
    };
    headings.map(anchor).collect()
}

/// Paths in backticks; one with a placeholder or a wildcard names nothing in particular.
fn named(line: &str) -> impl Iterator<Item = &str> {
    let paths =
        pages::quoted(line).filter(|text| FOLDERS.iter().any(|folder| text.starts_with(folder)));
    paths
        .map(|text| text.split([' ', ':']).next().unwrap_or(text))
        .filter(|path| !path.contains(['*', '…', '{', '<']))
}

#[test]
fn the_check_itself_reads_links_paths_and_headings() {
    assert_eq!(
        links("see [a](b.md) and [c](d.md#e)").collect::<Vec<_>>(),
        ["b.md", "d.md#e"]
    );
    assert_eq!(
        named("`core/src/pick.rs`, `cargo test`, `docs/*.md`").collect::<Vec<_>>(),
        ["core/src/pick.rs"]
    );
    assert!(anchors("## The `pools[]` of it, all\n").contains("the-pools-of-it-all"));
    let page = File {
        path: "README.md".into(),
        text: String::new(),
    };
    assert!(leads_somewhere(&page, "docs/configuration.md#strategies"));
    assert!(
        !leads_somewhere(&page, "docs/configuration.md#nowhere")
            && !leads_somewhere(&page, "docs/nothing.md")
    );
}
