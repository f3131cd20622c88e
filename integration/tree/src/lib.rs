//! Reads the source tree of this repository, for the tests in `tests/tree`. It depends on nothing
//! but the standard library, so that these tests build in seconds, and it understands as much Rust
//! as they need: comments, strings, items, `use` declarations and paths. Types, macros and the
//! rules of visibility are the compiler's.
//!
//! ```text
//! files ──▶ source ──▶ tokens ──▶ items ──▶ modules ──▶ arrows ──▶ circles
//!   │       (code without comments, strings and unit tests)   (which file names items of which)
//!   ├──▶ words                 manifests (Cargo.toml, Cargo.lock)
//!   └──▶ pages                 markdown
//! ```

pub mod arrows;
pub mod circles;
pub mod files;
pub mod items;
pub mod manifests;
pub mod modules;
pub mod pages;
pub mod source;
pub mod tokens;
pub mod words;

/// Fails with all complaints at once, and with what to do about them.
///
/// # Panics
///
/// If there are complaints.
#[track_caller]
pub fn assert_none(complaints: &[String], remedy: &str) {
    assert!(
        complaints.is_empty(),
        "{remedy}:\n  {}",
        complaints.join("\n  ")
    );
}
