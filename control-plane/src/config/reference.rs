//! The tables of `docs/configuration.md`, generated from the calls that read the file; and the
//! schema of the chart.

mod schema;

pub use self::schema::schema;
use super::{
    Document,
    key::{DefaultValue, KeyDescription, ValueType},
    section::Section,
};

/// The keys of the top level; those of the mappings are inside them.
#[must_use]
pub fn keys() -> Vec<KeyDescription> {
    Section::describe(Document::read).1
}

/// Every key with its type, default, range and meaning, as Markdown tables, one for each mapping of
/// the file.
#[must_use]
pub fn tables() -> String {
    let mut tables = Vec::new();
    write_tables("", &keys(), &mut tables);
    tables.join("\n")
}

/// The table of the mapping at `path`, and then those of the mappings inside.
fn write_tables(path: &str, keys: &[KeyDescription], tables: &mut Vec<String>) {
    let title = if path.is_empty() {
        "Top level".to_owned()
    } else {
        format!("`{path}`")
    };
    let rows: String = keys.iter().map(|key| row(path, key)).collect();
    tables.push(format!(
        "### {title}\n\n| Key | Type | Default | Range | Meaning |\n|---|---|---|---|---|\n{rows}"
    ));
    let inside = |key: &&KeyDescription| !key.keys().is_empty() && !is_repeated(path, key.name);
    for key in keys.iter().filter(inside) {
        let list = matches!(key.value_type, ValueType::List(..));
        let brackets = if list { "[]" } else { "" };
        let path = format!("{}{brackets}", path_of(path, key));
        write_tables(&path, key.keys(), tables);
    }
}

/// Whether the keys inside this one have tables elsewhere: those of `pools[]`.
fn is_repeated(path: &str, name: &str) -> bool {
    matches!(
        (path, name),
        ("app", "strategy" | "weights") | ("inferencePools", "policy")
    )
}

fn path_of(section: &str, key: &KeyDescription) -> String {
    let dot = if section.is_empty() { "" } else { "." };
    format!("{section}{dot}{}", key.name)
}

fn row(section: &str, key: &KeyDescription) -> String {
    let default = match &key.default {
        DefaultValue::Absent => String::new(),
        DefaultValue::Required => "required".to_owned(),
        DefaultValue::Value(value) => format!("`{value}`"),
        DefaultValue::Words(words) => words.clone().into_owned(),
    };
    let aliases = if key.aliases.is_empty() {
        String::new()
    } else {
        format!(" Also `{}`.", key.aliases.join("`, `"))
    };
    let (path, kind, range) = (
        path_of(section, key),
        type_name(&key.value_type),
        key.value_type.range(),
    );
    let description = key.description();
    format!("| `{path}` | {kind} | {default} | {range} | {description}{aliases} |\n")
}

fn type_name(value_type: &ValueType) -> String {
    match value_type {
        ValueType::Duration(_) => "duration".to_owned(),
        ValueType::Size(_) => "size".to_owned(),
        ValueType::Count(_) => "whole number".to_owned(),
        ValueType::Number(_) => "number".to_owned(),
        ValueType::Flag => "`true` or `false`".to_owned(),
        ValueType::OneOf(words) => format!("one of `{}`", words.join("`, `")),
        ValueType::Section(_) => "a mapping".to_owned(),
        ValueType::Texts(_)
        | ValueType::List(..)
        | ValueType::Text(_)
        | ValueType::Port
        | ValueType::Map(_)
        | ValueType::TextOrSection(..)
        | ValueType::FlagOrSection(_) => value_type.expected(),
    }
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;

    const BEGIN: &str = "<!-- tables: written by the tests of the control plane -->\n";
    const END: &str = "<!-- end of the tables -->\n";

    /// With `WRITE_DOCS=1` in the environment the page is brought up to date instead.
    #[test]
    fn every_key_is_documented() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let page = fs::read_to_string(&path).expect("the page exists");
        let (before, rest) = page
            .split_once(BEGIN)
            .expect("the page marks where the tables begin");
        let (_, after) = rest
            .split_once(END)
            .expect("the page marks where the tables end");
        let wanted = format!("{before}{BEGIN}\n{}\n{END}{after}", tables());
        if env::var_os("WRITE_DOCS").is_some() {
            fs::write(&path, &wanted).expect("the page can be written");
            return;
        }
        assert!(
            page == wanted,
            "run this test with WRITE_DOCS=1 to bring docs/configuration.md up to date"
        );
    }

    fn assert_distinct(path: &str, keys: &[KeyDescription]) {
        let mut names: Vec<&str> = keys.iter().flat_map(KeyDescription::spellings).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{path}");
        keys.iter()
            .for_each(|key| assert_distinct(key.name, key.keys()));
    }

    /// The keys inside the one that `path` leads to.
    fn inside(path: &[&str]) -> Vec<KeyDescription> {
        path.iter().fold(keys(), |keys, name| {
            let key = keys.iter().find(|key| key.name == *name).expect(name);
            key.keys().to_vec()
        })
    }

    #[test]
    fn keys_without_a_table_have_the_rows_of_a_pool() {
        let rows = |keys: Vec<KeyDescription>| -> Vec<String> {
            keys.iter().map(|key| row("", key)).collect()
        };
        let pool = rows(inside(&["pools"]));
        let policy = rows(inside(&["inferencePools", "policy"]));
        assert!(!policy.is_empty());
        for row in policy {
            assert!(pool.contains(&row), "no row of `pools[]`: {row}");
        }
        for name in inside(&["inferencePools", "policy"])
            .iter()
            .map(|key| key.name)
        {
            let of_a_pool = rows(inside(&["pools", name]));
            assert_eq!(
                rows(inside(&["inferencePools", "policy", name])),
                of_a_pool,
                "{name}"
            );
        }
    }

    #[test]
    fn no_key_is_described_twice_in_a_section() {
        assert_distinct("", &keys());
    }
}
