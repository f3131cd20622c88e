//! The walks through the code (`docs/life-of-*.md`) name functions and variants that production
//! code has.

use hermes_tree::{assert_none, files, items::Items, pages, source};

/// What one file of production code defines.
struct Defines {
    /// The name of its module: that of the file.
    module: String,
    items: Items,
}

#[test]
fn functions_that_the_walks_name_exist() {
    let mut sources = files::ending_in(".rs");
    sources.retain(|file| file.path.contains("/src/") && !file.path.ends_with("/tests.rs"));
    let sources: Vec<Defines> = sources
        .iter()
        .map(|file| Defines::read(&file.path, &file.text))
        .collect();
    let mut gone = Vec::new();
    for page in pages::all() {
        if !page.path.starts_with("docs/life-of-") {
            continue;
        }
        for (at, line) in page.text.lines().enumerate() {
            for (owner, item) in pairs(line) {
                if !sources.iter().any(|file| file.has(owner, item)) {
                    gone.push(format!("{}:{}: {owner}::{item}", page.path, at + 1));
                }
            }
        }
    }
    assert_none(&gone, "write the name that production code has now");
}

/// `Owner::item` pairs, diagrams included: the owner is a type or a module.
fn pairs(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let words = line.split(move |letter: char| !is_name(letter));
    words.filter_map(|word| word.trim_matches(':').split_once("::"))
}

// === Defines ===

impl Defines {
    fn read(path: &str, text: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or_default();
        Self {
            module: name.trim_end_matches(".rs").to_owned(),
            items: Items::read(&source::production(text)),
        }
    }

    /// Whether it defines this method or variant of a type, or this item of the module itself.
    fn has(&self, owner: &str, item: &str) -> bool {
        let items = &self.items;
        let is_method = items
            .functions
            .iter()
            .any(|function| function.name == item && function.owner.as_deref() == Some(owner));
        let is_variant = items
            .variants
            .iter()
            .any(|(of, name)| of == owner && name == item);
        let is_of_module = self.module == owner && items.names.iter().any(|name| name == item);
        is_method || is_variant || is_of_module
    }
}

#[test]
fn the_check_itself_knows_owners_and_leaves_tests_out() {
    let text = "impl Pipeline {\n    fn settle(&mut self) {}\n}\npub enum Update {\n    Config(u8),\n}\n\
        fn free() {}\n#[cfg(test)]\nmod tests {\n    impl Pipeline {\n        fn probe() {}\n    }\n}\n";
    let file = Defines::read("control-plane/src/pipeline.rs", text);
    assert!(file.has("Pipeline", "settle") && file.has("Update", "Config"));
    assert!(file.has("pipeline", "free"));
    assert!(!file.has("Cluster", "settle") && !file.has("Pipeline", "unsettle"));
    assert!(!file.has("Update", "Gone"));
    assert!(!file.has("Pipeline", "free"), "no method");
    assert!(!file.has("pipeline", "settle"), "no function of the module");
    assert!(!file.has("Pipeline", "probe"), "only tests have it");
    let found: Vec<_> = pairs("Note: read::whole, `Call::read`.").collect();
    assert_eq!(found, [("read", "whole"), ("Call", "read")]);
}
