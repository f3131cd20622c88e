//! The text files of the repository, without what is built or fetched.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Directories that hold nothing written by hand.
const SKIPPED: [&str; 7] = [
    ".git",
    "target",
    "dist",
    "generated",
    "node_modules",
    "__pycache__",
    "corpus",
];

/// A text file, its path relative to the root of the repository.
#[derive(Clone, Debug)]
pub struct File {
    /// With `/` between folders, on every system.
    pub path: String,
    /// The whole text.
    pub text: String,
}

/// The root of the repository.
///
/// # Panics
///
/// If this crate is not two folders below it.
#[must_use]
pub fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("the crate is two folders below the root of the repository")
}

/// All text files of the repository, by path.
#[must_use]
pub fn all() -> Vec<File> {
    let mut paths = Vec::new();
    collect(root(), &mut paths);
    paths.sort();
    paths.iter().filter_map(|path| File::read(path)).collect()
}

/// The files whose name ends in `ending`, by path.
#[must_use]
pub fn ending_in(ending: &str) -> Vec<File> {
    let mut files = all();
    files.retain(|file| file.path.ends_with(ending));
    files
}

/// Reads the file at this path, relative to the root.
///
/// # Panics
///
/// If there is no such text file.
#[must_use]
pub fn read(path: &str) -> String {
    let whole = root().join(path);
    fs::read_to_string(whole).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `path:line: text` for each line of `files` that `wanted` picks.
pub fn lines(files: &[File], wanted: impl Fn(&File, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        for (at, line) in file.text.lines().enumerate() {
            if wanted(file, line) {
                found.push(format!("{}:{}: {}", file.path, at + 1, line.trim()));
            }
        }
    }
    found
}

// === File ===

impl File {
    /// `None` for what is not UTF-8, and thus not text.
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let below = path.strip_prefix(root()).expect("below the root");
        let path = below.to_string_lossy().replace('\\', "/");
        Some(Self { path, text })
    }
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_symlink() || SKIPPED.contains(&&*name) {
            continue;
        }
        if path.is_dir() {
            collect(&path, paths);
        } else {
            paths.push(path);
        }
    }
}

#[test]
fn the_walk_finds_this_very_file_and_nothing_that_is_built() {
    let paths: Vec<String> = ending_in(".rs").into_iter().map(|file| file.path).collect();
    assert!(paths.contains(&"integration/tree/src/files.rs".to_owned()));
    assert!(!paths.iter().any(|path| path.starts_with("target/")));
}
