//! The pages of `docs`.

use std::{fs, path::Path};

/// The text of `docs/NAME.md`.
pub(super) fn read(name: &str) -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = here
        .ancestors()
        .map(|folder| folder.join("docs"))
        .find(|docs| docs.is_dir());
    let page = docs
        .expect("the repository has docs")
        .join(name)
        .with_extension("md");
    fs::read_to_string(page).expect("a readable page")
}
