//! YAML to a tree of values, with bounds on size, depth and the growth that aliases cause.
//!
//! A key that is there twice does not end the parsing: it is noted with its path, like every other mistake, and the
//! value that came last is checked on.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::DuplicateKeyPolicy;

use super::{
    MAX_BYTES,
    mistakes::excerpt,
    reader::{Notes, joined},
};

/// Deepest nesting; the deepest key of the configuration is at a quarter of it.
const MAX_DEPTH: usize = 32;

/// Builds the value at one path.
struct Branch<'a> {
    path: String,
    notes: &'a Notes,
}

/// The one document in `text`; nothing when it is none, which has been noted.
pub(super) fn parse(text: &str, notes: &Notes) -> Option<Value> {
    if text.len() > MAX_BYTES {
        notes.mistake(
            "",
            format!("the file has {} bytes", text.len()),
            format!("give at most {MAX_BYTES}"),
        );
        return None;
    }
    let root = Branch {
        path: String::new(),
        notes,
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
            notes.mistake("", found, "give one YAML mapping");
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
        // Ours to find: see the module's documentation.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        with_snippet: false,
    }
}

/// The parser's own words for people, without its advice to programmers and without its second mention of the place.
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
        let Self { path, notes } = self;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(Branch {
            path: format!("{path}[{}]", items.len()),
            notes,
        })? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let Self { path, notes } = self;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let path = joined(&path, &key);
            if map.contains_key(&key) {
                notes.mistake(&path, "the key is there twice", "give it once");
            }
            map.insert(key, access.next_value_seed(Branch { path, notes })?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mistakes;

    fn parse(text: &str) -> Result<Value, Mistakes> {
        let notes = Notes::default();
        let value = super::parse(text, &notes);
        let mistakes = notes.into_mistakes();
        value.filter(|_| mistakes.is_empty()).ok_or(mistakes)
    }

    #[test]
    fn every_key_that_is_there_twice_is_noted_with_its_path() {
        let error = parse("a: {b: [{c: 1, c: 2}]}\nd: 1\nd: 2\n")
            .expect_err("c and d are there twice")
            .to_string();
        assert_eq!(
            error,
            "a.b[0].c: the key is there twice; give it once\nd: the key is there twice; give it once"
        );
    }

    #[test]
    fn a_mapping_may_be_merged_into_another_and_overridden() {
        let merged = parse("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}").expect("merge keys");
        assert_eq!(merged["b"], serde_json::json!({"x": 1, "y": 3}));
    }

    #[test]
    fn what_is_no_yaml_is_one_mistake_with_its_line() {
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
        assert!(error.contains("at most 1048576"), "{error}");
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
    fn a_word_that_old_yaml_took_for_a_flag_stays_text() {
        assert_eq!(
            parse("on: no").expect("a mapping"),
            serde_json::json!({"on": "no"})
        );
    }
}
