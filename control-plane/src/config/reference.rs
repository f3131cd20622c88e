//! The tables of `docs/configuration.md`, made from the lists that the reader checks against, and the same for helm.

mod schema;

pub use self::schema::schema;
use super::sections::{ALL, Key, Kind, Section};

/// Every key with its type, default, range and meaning, as Markdown tables, one for each mapping of the file.
#[must_use]
pub fn tables() -> String {
    ALL.iter()
        .map(|section| table(section))
        .collect::<Vec<_>>()
        .join("\n")
}

fn table(section: &Section) -> String {
    let title = if section.path.is_empty() {
        "Top level".to_owned()
    } else {
        format!("`{}`", section.path)
    };
    let rows: String = section.keys.iter().map(|key| row(section, key)).collect();
    format!(
        "### {title}\n\n| Key | Type | Default | Range | Meaning |\n|---|---|---|---|---|\n{rows}"
    )
}

fn row(section: &Section, key: &Key) -> String {
    let dot = if section.path.is_empty() { "" } else { "." };
    let default = match key
        .default
        .strip_prefix('(')
        .and_then(|text| text.strip_suffix(')'))
    {
        Some(words) => words.to_owned(),
        None if key.default.is_empty() => String::new(),
        None => format!("`{}`", key.default),
    };
    let also = if key.also.is_empty() {
        String::new()
    } else {
        format!(" Also `{}`.", key.also.join("`, `"))
    };
    let (path, name, kind) = (section.path, key.name, kind_name(&key.kind));
    format!(
        "| `{path}{dot}{name}` | {kind} | {default} | {} | {}{also} |\n",
        key.kind.range(),
        key.meaning
    )
}

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Duration(..) => "duration".to_owned(),
        Kind::Size(..) => "size".to_owned(),
        Kind::Count(..) => "whole number".to_owned(),
        Kind::Number(..) => "number".to_owned(),
        Kind::Flag => "`true` or `false`".to_owned(),
        Kind::OneOf(words) => format!("one of `{}`", words.join("`, `")),
        Kind::List(what) => format!("list of {what}"),
        Kind::Text(what) | Kind::Mapping(what) => (*what).to_owned(),
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

    #[test]
    fn no_key_is_declared_twice_in_a_section() {
        for section in ALL {
            let mut names: Vec<&str> = section.keys.iter().flat_map(Key::spellings).collect();
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}", section.path);
        }
    }
}
