//! The configuration as a JSON Schema, generated from the calls that read the file.
//!
//! It makes `helm install` reject what is wrong before anything runs: unknown keys, wrong types,
//! words and whole numbers out of range. What it cannot state (ranges of durations, keys that
//! contradict each other) the control plane checks.

use serde_json::{Map, Value, json};

use super::{
    super::key::{KeyDescription, ValueType},
    keys,
};

/// What durations look like; see `config/duration.rs`.
const DURATION: &str = r"^[0-9]+(\.[0-9]+)?$|^([0-9]+(\.[0-9]+)?(d|h|m|s|ms|us))+$";

/// What sizes look like; see `config/size.rs`.
const SIZE: &str = "^[0-9]+ ?(B|[KMG]iB?|k|kB|[MG]B?)?$";

/// The schema of the whole file.
#[must_use]
pub fn schema() -> Value {
    section(&json!(["object", "null"]), &keys())
}

/// A mapping with these keys, or another of these types.
fn section(types: &Value, keys: &[KeyDescription]) -> Value {
    let mut properties = Map::new();
    for key in keys {
        let mut schema = value(&key.value_type);
        schema["description"] = key.description().into();
        for name in key.spellings() {
            properties.insert(name.to_owned(), schema.clone());
        }
    }
    json!({"type": types, "additionalProperties": false, "properties": properties})
}

/// What a value may be. An empty value is everywhere the same as none.
fn value(value_type: &ValueType) -> Value {
    match value_type {
        ValueType::Duration(_) => {
            json!({"type": ["string", "number", "null"], "pattern": DURATION, "minimum": 0})
        }
        ValueType::Size(_) => {
            json!({"type": ["string", "integer", "null"], "pattern": SIZE, "minimum": 0})
        }
        ValueType::Count(range) => {
            json!({"type": ["integer", "null"], "minimum": range.start(), "maximum": range.end()})
        }
        ValueType::Number(range) => {
            json!({"type": ["number", "null"], "minimum": range.start(), "maximum": range.end()})
        }
        ValueType::Flag => json!({"type": ["boolean", "null"]}),
        ValueType::OneOf(words) => {
            let words = words.iter().map(|word| Value::from(*word));
            json!({"enum": words.chain([Value::Null]).collect::<Vec<_>>()})
        }
        ValueType::Text(_) => json!({"type": ["string", "null"]}),
        ValueType::Port => json!({"type": ["integer", "string", "null"]}),
        ValueType::Texts(_) => json!({"type": ["array", "null"], "items": {"type": "string"}}),
        ValueType::List(_, keys) => {
            let items = section(&json!(["object", "null"]), keys);
            json!({"type": ["array", "null"], "items": items})
        }
        ValueType::Map(_) => json!({"type": ["object", "null"]}),
        ValueType::Section(keys) => section(&json!(["object", "null"]), keys),
        ValueType::TextOrSection(_, keys) => section(&json!(["object", "string", "null"]), keys),
        ValueType::FlagOrSection(keys) => section(&json!(["object", "boolean", "null"]), keys),
    }
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
