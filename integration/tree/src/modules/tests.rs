use super::*;

fn target(files: &[(&str, &str)]) -> Target {
    let files: Vec<File> = files
        .iter()
        .map(|(path, text)| File {
            path: format!("x/src/{path}"),
            text: (*text).to_owned(),
        })
        .collect();
    targets(&files).pop().expect("there is a lib.rs")
}

fn path(text: &str) -> Vec<String> {
    text.split("::").map(str::to_owned).collect()
}

#[test]
fn re_exports_globs_and_modules_are_followed_to_definitions() {
    let target = target(&[
        ("lib.rs", "mod a; pub mod b;"),
        (
            "a.rs",
            "mod deep; pub use deep::{Deep, Deep as Alias}; pub use deep::*; pub struct Own; use std::fmt::Display;",
        ),
        (
            "a/deep.rs",
            "pub struct Deep; pub fn free() {} #[cfg(test)] mod tests;",
        ),
        ("a/deep/tests.rs", ""),
        ("b.rs", "pub use crate::a as renamed;"),
    ]);
    assert_eq!(target.files.len(), 4, "the unit tests are left out");
    let item = |module: &str, name: &str| Some(Found::Item(path(module), name.to_owned()));
    let b = path("b");
    assert_eq!(
        target.resolve(&b, &path("crate::a::Deep")),
        item("a::deep", "Deep")
    );
    assert_eq!(
        target.resolve(&b, &path("super::a::Alias")),
        item("a::deep", "Deep")
    );
    assert_eq!(
        target.resolve(&b, &path("super::a::free")),
        item("a::deep", "free")
    );
    assert_eq!(
        target.resolve(&b, &path("self::renamed::Own")),
        item("a", "Own")
    );
    assert_eq!(
        target.resolve(&b, &path("crate::a")),
        Some(Found::Module(path("a")))
    );
    assert_eq!(
        target.resolve(&path("a"), &path("deep::Deep")),
        item("a::deep", "Deep")
    );
    assert_eq!(
        target.resolve(&b, &path("crate::a::Display")),
        None,
        "another crate's"
    );
    assert_eq!(target.resolve(&b, &path("std::fmt")), None);
}

#[test]
fn roots_are_what_a_compiler_starts_at() {
    for root in [
        "x/src/lib.rs",
        "x/src/main.rs",
        "x/tests/it/main.rs",
        "x/tests/cli.rs",
        "x/benches/a.rs",
        "x/build.rs",
    ] {
        assert!(is_root(root), "{root}");
    }
    for module in [
        "x/src/a.rs",
        "x/src/a/lib2.rs",
        "x/tests/it/a.rs",
        "x/src/tests/a.rs",
    ] {
        assert!(!is_root(module), "{module}");
    }
}
