//! The modules of one target (a library, a binary, a test, a bench), and what a path in one of them
//! leads to.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    files::File,
    items::{Import, Items},
    source::{blank, production},
};

/// Names of modules from the root of the target on; empty for the root itself.
pub type ModulePath = Vec<String>;

/// One target: the file of its root, and all modules that are declared below it.
#[derive(Debug)]
pub struct Target {
    /// The path of `lib.rs`, `main.rs` or the like.
    pub root: String,
    /// The file of each module.
    pub files: BTreeMap<ModulePath, String>,
    /// What each file holds.
    pub items: BTreeMap<String, Items>,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A module of this target.
    Module(ModulePath),
    /// An item that this module's file defines.
    Item(ModulePath, String),
}

/// Every target of the repository. Code that only unit tests see is left out.
#[must_use]
pub fn targets(files: &[File]) -> Vec<Target> {
    let rust: BTreeMap<&str, &File> = files
        .iter()
        .map(|file| (file.path.as_str(), file))
        .collect();
    let roots = rust.keys().filter(|path| is_root(path));
    roots.map(|root| Target::read(root, &rust)).collect()
}

/// Whether a compiler starts at this file.
#[must_use]
pub fn is_root(path: &str) -> bool {
    let parts: Vec<&str> = path.rsplit('/').collect();
    match parts[..] {
        ["lib.rs" | "main.rs", "src", ..] | ["main.rs", _, "tests" | "benches", ..] => true,
        ["build.rs", ..] => true,
        [
            _,
            "tests" | "benches" | "examples" | "bin" | "fuzz_targets",
            ..,
        ] => !path.contains("/src/") || path.contains("/src/bin/"),
        _ => false,
    }
}

// === Target ===

impl Target {
    fn read(root: &str, rust: &BTreeMap<&str, &File>) -> Self {
        let mut target = Self {
            root: root.to_owned(),
            files: BTreeMap::new(),
            items: BTreeMap::new(),
        };
        let folder = root.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut waiting = vec![(ModulePath::new(), root.to_owned(), folder.to_owned())];
        while let Some((module, path, folder)) = waiting.pop() {
            let Some(file) = rust.get(path.as_str()) else {
                continue;
            };
            // A test may hold modules under `cfg(test)`, as all of it is one.
            let is_test = root.contains("/tests/") || root.contains("/benches/");
            let code = if is_test {
                blank(&file.text)
            } else {
                production(&file.text)
            };
            let items = Items::read(&code);
            for name in &items.modules {
                let mut child = module.clone();
                child.push(name.clone());
                waiting.push((
                    child,
                    format!("{folder}/{name}.rs"),
                    format!("{folder}/{name}"),
                ));
            }
            target.files.insert(module, path.clone());
            target.items.insert(path, items);
        }
        target
    }

    /// The items of a module's file.
    ///
    /// # Panics
    ///
    /// If the target has no such module.
    #[must_use]
    pub fn items_of(&self, module: &[String]) -> &Items {
        &self.items[&self.files[module]]
    }

    /// What `path`, written in `module`, leads to; re-exports are followed to the definition.
    /// `None` for what other crates define.
    #[must_use]
    pub fn resolve(&self, module: &[String], path: &[String]) -> Option<Found> {
        self.follow(module, path, &mut BTreeSet::new())
    }

    fn follow(
        &self,
        module: &[String],
        path: &[String],
        seen: &mut BTreeSet<(ModulePath, String)>,
    ) -> Option<Found> {
        let (mut module, mut rest) = self.start(module, path)?;
        while let [first, after @ ..] = rest {
            let mut child = module.clone();
            child.push(first.clone());
            if !self.files.contains_key(&child) {
                break;
            }
            (module, rest) = (child, after);
        }
        let [name, after @ ..] = rest else {
            return Some(Found::Module(module));
        };
        let items = self.items_of(&module);
        let is_new = seen.insert((module.clone(), name.clone()));
        if items.names.contains(name) || !is_new {
            return Some(Found::Item(module, name.clone()));
        }
        let is_other = |import: &&Import| import.path != [name.clone()];
        let named = items
            .imports
            .iter()
            .filter(|import| import.name == *name)
            .find(is_other);
        if let Some(import) = named {
            let found = self.follow(&module, &import.path, seen)?;
            return match found {
                Found::Module(found) if !after.is_empty() => {
                    let mut whole = vec!["crate".to_owned()];
                    whole.extend(found);
                    whole.extend_from_slice(after);
                    self.follow(&[], &whole, seen)
                }
                found => Some(found),
            };
        }
        let through_glob = self.through_globs(&module, name);
        Some(through_glob.unwrap_or_else(|| Found::Item(module, name.clone())))
    }

    /// The definition of `name` in a module that this one imports as a whole.
    fn through_globs(&self, module: &[String], name: &String) -> Option<Found> {
        let imports = self.items_of(module).imports.iter();
        let globs = imports.filter_map(|import| import.path.strip_suffix(&["*".to_owned()]));
        globs
            .filter(|path| !path.is_empty())
            .filter_map(|path| self.resolve(module, path))
            .find_map(|found| match found {
                Found::Module(found) if self.items_of(&found).names.contains(name) => {
                    Some(Found::Item(found, name.clone()))
                }
                _ => None,
            })
    }

    /// The module that a path starts from, and what is left of the path.
    fn start<'p>(
        &self,
        module: &[String],
        path: &'p [String],
    ) -> Option<(ModulePath, &'p [String])> {
        let (first, mut rest) = path.split_first()?;
        let mut start = module.to_vec();
        match first.as_str() {
            "crate" => return Some((Vec::new(), rest)),
            "self" => {}
            "super" => rest = path,
            _ => {
                start.push(first.clone());
                let is_child = self.files.contains_key(&start);
                start.pop();
                return is_child.then_some((start, path));
            }
        }
        while let [first, after @ ..] = rest {
            if first != "super" {
                break;
            }
            start.pop()?;
            rest = after;
        }
        Some((start, rest))
    }
}

#[cfg(test)]
mod tests;
