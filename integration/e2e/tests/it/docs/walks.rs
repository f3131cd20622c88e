//! The walks through the code (`docs/life-of-*.md`) name functions that exist.

use super::pages;

#[test]
fn functions_that_the_walks_name_exist() {
    let sources = pages::sources();
    let mut gone = Vec::new();
    for page in pages::all()
        .into_iter()
        .filter(|page| page.path.starts_with("docs/life-of-"))
    {
        for (at, line) in page.text.lines().enumerate() {
            let unknown = items(line)
                .filter(|item| !sources.iter().any(|(path, text)| holds(path, text, item)));
            gone.extend(
                unknown.map(|item| format!("{}:{}: {}::{}", page.path, at + 1, item.0, item.1)),
            );
        }
    }
    assert!(
        gone.is_empty(),
        "say what it is called now:\n  {}",
        gone.join("\n  ")
    );
}

/// `Owner::item` pairs, diagrams included: the owner is a type or a module.
fn items(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let words =
        line.split(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':'));
    words.filter_map(|word| word.trim_matches(':').split_once("::"))
}

/// Whether this file defines the item: a function, or a variant, of a type or of the module itself.
fn holds(path: &str, text: &str, (owner, item): &(&str, &str)) -> bool {
    let is_module = path.ends_with(&format!("/{owner}.rs"));
    let implements = text.lines().any(|line| {
        line.trim_start().split(" {").next().is_some_and(|head| {
            let defines = ["impl", "pub enum", "enum"]
                .iter()
                .any(|keyword| head.starts_with(keyword));
            defines
                && head
                    .split(|letter: char| !letter.is_alphanumeric())
                    .any(|word| word == *owner)
        })
    });
    let is_variant = item.starts_with(char::is_uppercase);
    let defines = text.lines().any(|line| {
        let line = line.trim_start();
        if is_variant {
            return line.split([' ', '(', ',', '{']).next() == Some(item);
        }
        line.contains(&format!("fn {item}(")) || line.contains(&format!("fn {item}<"))
    });
    (is_module || implements) && defines
}

#[test]
fn the_check_itself_tells_owners_apart() {
    let text =
        "impl Pipeline {\n    fn settle(&mut self) {}\n}\npub enum Update {\n    Config(u8),\n}\n";
    let is_held = |owner, item| holds("control-plane/src/pipeline.rs", text, &(owner, item));
    assert!(
        is_held("Pipeline", "settle")
            && is_held("pipeline", "settle")
            && is_held("Update", "Config")
    );
    assert!(
        !is_held("Cluster", "settle")
            && !is_held("Pipeline", "unsettle")
            && !is_held("Update", "Gone")
    );
    assert_eq!(
        items("Note: read::whole, `Call::read`.").collect::<Vec<_>>(),
        [("read", "whole"), ("Call", "read")]
    );
}
