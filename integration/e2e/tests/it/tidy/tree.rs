//! The files of the repository, without what is built or fetched.

use std::fs;
use std::path::{Path, PathBuf};

/// Directories that hold nothing written by hand.
const SKIPPED: [&str; 5] = [".git", "target", "node_modules", "__pycache__", "fuzz"];

/// A text file, its path relative to the root of the repository.
pub(super) struct File {
    pub(super) path: String,
    pub(super) text: String,
}

/// The root of the repository.
pub(super) fn root() -> PathBuf {
    let this_crate = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = this_crate.ancestors().nth(2);
    root.expect("the crate is two folders below the root")
        .to_owned()
}

/// All text files whose name ends in `ending`, by path.
pub(super) fn files(ending: &str) -> Vec<File> {
    let root = root();
    let mut files = Vec::new();
    collect(&root, &root, ending, &mut files);
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

fn collect(root: &Path, directory: &Path, ending: &str, files: &mut Vec<File>) {
    for entry in fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && !SKIPPED.contains(&name.as_str()) {
            collect(root, &path, ending, files);
        }
        if !path.is_file() || !name.ends_with(ending) {
            continue;
        }
        // What is not UTF-8 is not text.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let path = path
            .strip_prefix(root)
            .expect("below the root")
            .to_string_lossy()
            .into_owned();
        files.push(File { path, text });
    }
}

impl File {
    /// The part above the unit tests. By convention they come last in a file, or in a file of their own.
    pub(super) fn production(&self) -> &str {
        if self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.contains("/benches/")
        {
            return "";
        }
        self.text.split("#[cfg(test)]").next().unwrap_or_default()
    }
}

/// The part of a line that is code.
pub(super) fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Fails with all complaints at once, and with what to do about them.
#[track_caller]
pub(super) fn none(complaints: &[String], remedy: &str) {
    assert!(
        complaints.is_empty(),
        "{remedy}:\n  {}",
        complaints.join("\n  ")
    );
}

#[test]
fn the_walk_finds_this_very_file_and_nothing_that_is_built() {
    let paths: Vec<String> = files(".rs").into_iter().map(|file| file.path).collect();
    assert!(
        paths
            .iter()
            .any(|path| path == "integration/e2e/tests/it/tidy/tree.rs")
    );
    assert!(!paths.iter().any(|path| path.starts_with("target/")));
}
