use super::*;

const CODE: &str = "
pub mod inner;
mod here { pub(crate) fn within() {} }
pub(crate) use inner::{self, Deep, deeper::{Two as Second, *}};
use std::fmt;
const MAX: usize = inner::LIMIT;
pub struct Queue<T> { items: Vec<T> }
pub type Short = Queue<u8>;
enum Level {
    Low,
    High { by: u8 },
    Other(super::Why),
}
trait Ranks { type Item; fn rank(&self) -> u8; fn name(&self) -> u8 { 1 } }
impl<T: Into<u8>> Ranks for Queue<T> where T: Copy {
    type Item = u8;
    fn rank(&self) -> u8 {
        fn local(x: fn(u8) -> u8) -> u8 { x(1) }
        struct Local;
        crate::other::free(Level::Low)
    }
}
impl fmt::Display for Level {}
fn build(x: impl Fn(u8) -> u8) -> impl Iterator<Item = u8> { x(1) }
macro_rules! family { ($name:ident) => { struct $name; } }
";

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[test]
fn imports_are_flattened_with_their_names() {
    let items = Items::read(CODE);
    let imports: Vec<(String, &str, bool)> = items
        .imports
        .iter()
        .map(|import| {
            (
                import.path.join("::"),
                import.name.as_str(),
                import.is_public,
            )
        })
        .collect();
    let expected = [
        ("inner".to_owned(), "inner", true),
        ("inner::Deep".to_owned(), "Deep", true),
        ("inner::deeper::Two".to_owned(), "Second", true),
        ("inner::deeper::*".to_owned(), "*", true),
        ("std::fmt".to_owned(), "fmt", false),
    ];
    assert_eq!(imports, expected);
    assert_eq!(words(&items.modules), ["inner"]);
}

#[test]
fn types_and_names_are_those_of_the_module() {
    let items = Items::read(CODE);
    let types: Vec<&str> = items.types.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(types, ["Queue", "Short", "Level", "Ranks"]);
    let expected = [
        "within", "MAX", "Queue", "Short", "Level", "Ranks", "build", "family",
    ];
    assert_eq!(words(&items.names), expected);
    assert_eq!(words(&items.implemented), ["Queue", "Level"]);
    let variants: Vec<&str> = items
        .variants
        .iter()
        .map(|(_, name)| name.as_str())
        .collect();
    assert_eq!(variants, ["Low", "High", "Other"]);
}

#[test]
fn functions_know_their_owner_and_length() {
    let items = Items::read(CODE);
    let functions: Vec<(&str, Option<&str>, usize)> = items
        .functions
        .iter()
        .map(|function| {
            (
                function.name.as_str(),
                function.owner.as_deref(),
                function.lines,
            )
        })
        .collect();
    let expected = [
        ("within", None, 1),
        ("rank", Some("Ranks"), 1),
        ("name", Some("Ranks"), 1),
        ("rank", Some("Queue"), 5),
        ("local", None, 1),
        ("build", None, 1),
    ];
    assert_eq!(functions, expected);
}

#[test]
fn paths_outside_of_imports_are_found() {
    let paths: Vec<String> = Items::read(CODE)
        .paths
        .iter()
        .map(|path| path.join("::"))
        .collect();
    assert_eq!(
        paths,
        [
            "inner::LIMIT",
            "super::Why",
            "crate::other::free",
            "fmt::Display"
        ]
    );
}
