//! The pages that people read: Markdown at the root, below `docs` and below `charts`.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// One page, its path relative to the root of the repository.
pub(super) struct Page {
    pub(super) path: String,
    pub(super) text: String,
}

/// The root of the repository.
pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the crate is two folders below the root")
}

/// Every page, by path.
pub(super) fn all() -> Vec<Page> {
    let mut paths = markdown(root());
    let mut folders = vec![root().join("docs"), root().join("charts")];
    while let Some(folder) = folders.pop() {
        if !folder.is_dir() {
            continue;
        }
        paths.extend(markdown(&folder));
        folders.extend(entries(&folder).into_iter().filter(|path| path.is_dir()));
    }
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

/// Every source file of the crates, by path, with its text.
pub(super) fn sources() -> Vec<(String, String)> {
    let crates = [
        "core",
        "proto",
        "runtime",
        "control-plane",
        "data-plane",
        "integration/engine-sim",
        "integration/bench-tools",
        "integration/testkit",
        "hermes",
    ];
    let mut folders: Vec<PathBuf> = crates
        .iter()
        .map(|name| root().join(name).join("src"))
        .collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        let (below, files): (Vec<_>, Vec<_>) =
            entries(&folder).into_iter().partition(|path| path.is_dir());
        folders.extend(below);
        let files = files
            .into_iter()
            .filter(|path| path.extension().is_some_and(|ending| ending == "rs"));
        sources.extend(
            files
                .map(|path| Page::read(&path))
                .map(|Page { path, text }| (path, text)),
        );
    }
    sources
}

/// The lines of a page that are not inside a fenced block, numbered from 1.
pub(super) fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((at + 1, line))
    })
}

impl Page {
    pub(super) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("a readable page");
        let path = path
            .strip_prefix(root())
            .expect("below the root")
            .to_string_lossy()
            .into_owned();
        Self { path, text }
    }
}

fn markdown(folder: &Path) -> Vec<PathBuf> {
    let is_page = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "md");
    entries(folder).into_iter().filter(is_page).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a readable folder");
    entries
        .map(|entry| entry.expect("a readable entry").path())
        .collect()
}

#[test]
fn fenced_lines_are_no_prose() {
    let text = "one\n```text\ntwo\n```\nthree";
    assert_eq!(prose(text).collect::<Vec<_>>(), [(1, "one"), (5, "three")]);
}
