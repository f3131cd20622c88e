//! Which module of a target names items of which other module, and the circles in that.
//!
//! A module is a file together with its folder. At each level of the tree, sibling modules must not
//! form a circle: then there is an order of them in which nothing is imported upwards. What counts
//! as an arrow:
//!
//! * A file names an item that another one defines, in a `use` or in a path. Re-exports are
//!   followed to the definition; the file that only re-exports gets no arrow.
//! * An arrow between two files is one between the siblings that they are below. A child may name
//!   items of its ancestors, and these may name items of the child, as they are one module.
//! * `mod name;` is no arrow, nor is the `use` of a module as such: what is named by it is.
//! * A re-export is no arrow, unless the file itself uses the name.
//! * Code that only unit tests see does not count.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    circles::circles,
    items::Import,
    modules::{Found, ModulePath, Target},
};

/// From one module to another, by way of these names.
pub type Arrows = BTreeMap<(ModulePath, ModulePath), BTreeSet<String>>;

/// The arrows between the files of a target.
#[must_use]
pub fn arrows(target: &Target) -> Arrows {
    let mut arrows = Arrows::new();
    for module in target.files.keys() {
        for (found, name) in named(target, module) {
            if found != *module {
                arrows
                    .entry((module.clone(), found))
                    .or_default()
                    .insert(name);
            }
        }
    }
    arrows
}

/// Each circle of siblings, with the arrows that form it.
#[must_use]
pub fn circles_of_siblings(target: &Target, arrows: &Arrows) -> Vec<String> {
    let levels: BTreeSet<&[String]> = target
        .files
        .keys()
        .filter_map(|module| module.split_last().map(|(_, above)| above))
        .collect();
    let mut found = Vec::new();
    for level in levels {
        let between = |(from, to): &(ModulePath, ModulePath)| {
            let (from, to) = (sibling(level, from)?, sibling(level, to)?);
            (from != to).then_some((from, to))
        };
        let pairs = arrows.keys().filter_map(between).collect();
        for circle in circles(&pairs) {
            let inside = arrows.iter().filter(|(arrow, _)| {
                between(arrow)
                    .is_some_and(|(from, to)| circle.contains(&from) && circle.contains(&to))
            });
            let lines: Vec<String> = inside.map(|arrow| line(target, arrow)).collect();
            let siblings: Vec<&str> = circle.iter().map(String::as_str).collect();
            found.push(format!(
                "{} below {} of {}:\n    {}",
                siblings.join(", "),
                [&["crate".to_owned()], level].concat().join("::"),
                target.root,
                lines.join("\n    ")
            ));
        }
    }
    found
}

/// The child of `level` that a module is in.
fn sibling(level: &[String], module: &ModulePath) -> Option<String> {
    module.strip_prefix(level)?.first().cloned()
}

fn line(
    target: &Target,
    ((from, to), names): (&(ModulePath, ModulePath), &BTreeSet<String>),
) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (from, to) = (&target.files[from], &target.files[to]);
    format!("{from} -> {to} ({})", names.join(", "))
}

/// Every item of the target that a module's file names, with the module that defines it.
fn named(target: &Target, module: &ModulePath) -> Vec<(ModulePath, String)> {
    let items = target.items_of(module);
    let mut aliases: BTreeMap<&str, ModulePath> = BTreeMap::new();
    let mut named = Vec::new();
    for import in &items.imports {
        match resolve_import(target, module, import) {
            Some(Found::Module(found)) => {
                aliases.insert(&import.name, found);
            }
            Some(Found::Item(found, name)) => {
                let is_only_passed_on = import.is_public && !items.words.contains(&import.name);
                if !is_only_passed_on {
                    named.push((found, name));
                }
            }
            None => {}
        }
    }
    for path in &items.paths {
        let whole = match aliases.get(path[0].as_str()) {
            Some(alias) => [&["crate".to_owned()], alias.as_slice(), &path[1..]].concat(),
            None => path.clone(),
        };
        if let Some(Found::Item(found, name)) = target.resolve(module, &whole) {
            named.push((found, name));
        }
    }
    named
}

/// A glob names all of a module, or of an enum.
fn resolve_import(target: &Target, module: &ModulePath, import: &Import) -> Option<Found> {
    match import.path.split_last() {
        Some((last, path)) if last == "*" => match target.resolve(module, path)? {
            Found::Module(found) if import.is_public => Some(Found::Module(found)),
            Found::Module(found) => Some(Found::Item(found, "*".to_owned())),
            item @ Found::Item(..) => Some(item),
        },
        _ => target.resolve(module, &import.path),
    }
}

#[cfg(test)]
mod tests;
