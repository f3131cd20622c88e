//! The configuration as a JSON Schema, made from the lists that the reader checks against.
//!
//! It is what `helm install` refuses before anything runs: unknown keys, wrong types, words and whole numbers out of
//! range. What it cannot say (ranges of durations, what contradicts what) the control plane says.

use serde_json::{Map, Value, json};

use super::super::sections::{ALL, Key, Kind, Section};

/// What durations look like; see `config/duration.rs`.
const DURATION: &str = r"^[0-9]+(\.[0-9]+)?$|^([0-9]+(\.[0-9]+)?(d|h|m|s|ms|us))+$";

/// What sizes look like; see `config/size.rs`.
const SIZE: &str = "^[0-9]+ ?(B|[KMG]iB?|k|kB|[MG]B?)?$";

/// The schema of the whole file.
#[must_use]
pub fn schema() -> Value {
    section("").expect("the top level is a section")
}

/// The mapping that stands at this path, if it has keys of its own.
fn section(path: &str) -> Option<Value> {
    let section = ALL.iter().find(|section| section.path == path)?;
    let mut properties = Map::new();
    for key in section.keys {
        let schema = described(value(section, key), key.meaning);
        properties.extend(
            key.spellings()
                .map(|name| (name.to_owned(), schema.clone())),
        );
    }
    Some(
        json!({"type": ["object", "null"], "additionalProperties": false, "properties": properties}),
    )
}

fn described(mut schema: Value, meaning: &str) -> Value {
    schema["description"] = meaning.into();
    schema
}

/// What may stand behind a key. An empty value is everywhere the same as none.
fn value(section: &Section, key: &Key) -> Value {
    let dot = if section.path.is_empty() { "" } else { "." };
    let path = format!("{}{dot}{}", section.path, key.name);
    match &key.kind {
        Kind::Duration(..) => {
            json!({"type": ["string", "number", "null"], "pattern": DURATION, "minimum": 0})
        }
        Kind::Size(..) => {
            json!({"type": ["string", "integer", "null"], "pattern": SIZE, "minimum": 0})
        }
        Kind::Count(min, max) => {
            json!({"type": ["integer", "null"], "minimum": min, "maximum": max})
        }
        Kind::Number(min, max) => {
            json!({"type": ["number", "null"], "minimum": min, "maximum": max})
        }
        Kind::Flag => json!({"type": ["boolean", "null"]}),
        Kind::OneOf(words) => {
            let words = words
                .iter()
                .map(|word| Value::from(*word))
                .chain([Value::Null]);
            json!({"enum": words.collect::<Vec<_>>()})
        }
        Kind::Text(_) => json!({"type": ["string", "null"]}),
        Kind::List(_) => list(&path),
        Kind::Mapping(what) => mapping(&path, what),
    }
}

fn list(path: &str) -> Value {
    let items = self::section(&format!("{path}[]")).unwrap_or_else(|| json!({"type": "string"}));
    json!({"type": ["array", "null"], "items": items})
}

/// A mapping with keys of its own, one with free keys, or one of several forms.
fn mapping(path: &str, what: &str) -> Value {
    // The original's block takes what a pool takes.
    let declared = match path {
        "app.strategy" => "pools[].strategy",
        "app.weights" => "pools[].strategy.weights",
        elsewhere => elsewhere,
    };
    let mut schema = section(declared).unwrap_or_else(|| json!({"type": ["object", "null"]}));
    let also = if what.starts_with("a strategy's name") {
        json!(["object", "string", "null"])
    } else if what.starts_with("true, false") {
        json!(["object", "boolean", "null"])
    } else if what.starts_with("a port") {
        json!(["integer", "string", "null"])
    } else {
        return schema;
    };
    schema["type"] = also;
    schema
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;

    /// Where the generated part of the chart's schema begins; it is the last member.
    const BEGIN: &str = "\n  \"$defs\": ";

    /// With `WRITE_DOCS=1` in the environment the chart is brought up to date instead.
    #[test]
    fn the_chart_refuses_what_the_reader_would_refuse() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../charts/hermes-router/values.schema.json");
        let file = fs::read_to_string(&path).expect("the chart has a schema");
        let (before, _) = file
            .split_once(BEGIN)
            .expect("the schema ends with definitions");
        let definitions =
            serde_json::to_string_pretty(&json!({"config": schema()})).expect("a value is JSON");
        let wanted = format!("{before}{BEGIN}{}\n}}\n", definitions.replace('\n', "\n  "));
        if env::var_os("WRITE_DOCS").is_some() {
            fs::write(&path, &wanted).expect("the schema can be written");
            return;
        }
        assert!(
            file == wanted,
            "run this test with WRITE_DOCS=1 to bring the chart's schema up to date"
        );
    }

    #[test]
    fn every_section_is_reachable() {
        let text = schema().to_string();
        for section in ALL {
            for key in section.keys {
                assert!(
                    text.contains(&format!("\"{}\":", key.name)),
                    "{}.{}",
                    section.path,
                    key.name
                );
            }
        }
    }

    #[test]
    fn forms_that_are_no_plain_mapping_are_accepted_as_documented() {
        let pool = &schema()["properties"]["pools"]["items"]["properties"];
        let kinds = |pointer: &str| pool.pointer(pointer).expect(pointer).clone();
        assert_eq!(kinds("/strategy/type"), json!(["object", "string", "null"]));
        assert_eq!(
            kinds("/kubernetes/properties/port/type"),
            json!(["integer", "string", "null"])
        );
        assert_eq!(
            kinds("/kvManager/properties/conductor/properties/register/type/1"),
            json!("boolean")
        );
        let app = &schema()["properties"]["app"]["properties"];
        assert_eq!(
            app["strategy"]["properties"],
            pool["strategy"]["properties"]
        );
        assert_eq!(
            app["weights"]["properties"],
            pool["strategy"]["properties"]["weights"]["properties"]
        );
    }
}
