//! YAML to a tree of values, with bounds on size, depth and the growth that aliases cause.
//!
//! A duplicate key does not end the parsing: it is recorded with its path, like every other error,
//! and its last value is used for further checks.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::DuplicateKeyPolicy;

use super::{MAX_BYTES, diagnostics::Diagnostics, error::excerpt, node::joined};

/// Deepest nesting; the deepest key of the configuration is at a quarter of this.
const MAX_DEPTH: usize = 32;

/// Builds the value at one path.
struct Branch<'a> {
    path: String,
    diagnostics: &'a Diagnostics,
}

/// The one document in `text`; `None` if there is none, which is recorded.
pub(super) fn parse(text: &str, diagnostics: &Diagnostics) -> Option<Value> {
    if text.len() > MAX_BYTES {
        diagnostics.error(
            "",
            format!("the file has {} bytes", text.len()),
            format!("the limit is {MAX_BYTES}"),
        );
        return None;
    }
    let root = Branch {
        path: String::new(),
        diagnostics,
    };
    let parsed = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |yaml| {
        root.deserialize(yaml)
    });
    match parsed {
        Ok(value) => Some(value),
        Err(error) => {
            let place = error
                .location()
                .map(|at| format!(" at line {}, column {}", at.line(), at.column()));
            let found = format!(
                "not a YAML document{}: {}",
                place.unwrap_or_default(),
                reason(&error)
            );
            diagnostics.error("", found, "expected one YAML mapping");
            None
        }
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_documents: 1,
            max_aliases: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 20_000 },
        // Found here instead: see the module's documentation.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        with_snippet: false,
    }
}

/// The parser's message, without its advice to programmers and without its second mention of the
/// place.
fn reason(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let end = [", set ", " at line "]
        .iter()
        .filter_map(|tail| text.find(tail))
        .min()
        .unwrap_or(text.len());
    excerpt(&text[..end])
}

// === Branch ===

impl<'de> DeserializeSeed<'de> for Branch<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Branch<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping, a list, text, a number, true, false or null")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let Self { path, diagnostics } = self;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(Branch {
            path: format!("{path}[{}]", items.len()),
            diagnostics,
        })? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let Self { path, diagnostics } = self;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let path = joined(&path, &key);
            if map.contains_key(&key) {
                diagnostics.error(&path, "duplicate key", "set it once");
            }
            map.insert(key, access.next_value_seed(Branch { path, diagnostics })?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigErrors;

    fn parse(text: &str) -> Result<Value, ConfigErrors> {
        let diagnostics = Diagnostics::default();
        let value = super::parse(text, &diagnostics);
        let errors = diagnostics.into_errors();
        value.filter(|_| errors.is_empty()).ok_or(errors)
    }

    #[test]
    fn every_duplicate_key_is_recorded_with_its_path() {
        let error = parse("a: {b: [{c: 1, c: 2}]}\nd: 1\nd: 2\n")
            .expect_err("c and d are duplicates")
            .to_string();
        assert_eq!(
            error,
            "a.b[0].c: duplicate key; set it once\nd: duplicate key; set it once"
        );
    }

    #[test]
    fn a_mapping_may_be_merged_into_another_and_overridden() {
        let merged = parse("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}").expect("merge keys");
        assert_eq!(merged["b"], serde_json::json!({"x": 1, "y": 3}));
    }

    #[test]
    fn invalid_yaml_is_one_error_with_its_line() {
        let error = parse("a: 1\nb: [").expect_err("an open list");
        assert_eq!(error.len(), 1);
        assert!(error.to_string().contains("at line 2"), "{error}");
    }

    #[test]
    fn a_second_document_is_refused() {
        assert!(parse("app: {}\n---\napp: {}\n").is_err());
    }

    #[test]
    fn a_file_over_the_bound_is_refused_before_it_is_parsed() {
        let error = parse(&"#".repeat(MAX_BYTES + 1))
            .expect_err("one byte too many")
            .to_string();
        assert!(error.contains("the limit is 1048576"), "{error}");
    }

    #[test]
    fn nesting_and_aliases_cannot_exhaust_the_stack_or_memory() {
        assert!(parse(&"[".repeat(100_000)).is_err());
        assert!(parse(&"- ".repeat(100_000)).is_err());
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..10 {
            let below = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(parse(&bomb).is_err());
    }

    #[test]
    fn a_yaml_1_1_boolean_word_stays_text() {
        assert_eq!(
            parse("on: no").expect("a mapping"),
            serde_json::json!({"on": "no"})
        );
    }
}
