//! Reads a tree of values section by section, and writes down every mistake with its path instead of stopping.
//!
//! A [`Node`] is a value and where it stands; [`Fields`] is a mapping whose keys were checked against a [`Section`].
//! Reading a field answers `None` both when it is absent (or null) and when it is wrong: a wrong one has been noted,
//! and the caller goes on with the default so that the rest of the file is checked too.

use std::{cell::RefCell, time::Duration};

use serde_json::{Map, Value};

use super::{
    Config, duration,
    mistakes::{Mistake, Mistakes, excerpt, shown},
    nearest::nearest,
    sections::{Key, Kind, Section},
    size,
};

/// Longest name, label, path or model that is accepted, in bytes.
const MAX_TEXT: usize = 512;

/// What a reading has found so far.
#[derive(Debug, Default)]
pub(super) struct Notes {
    mistakes: RefCell<Mistakes>,
    warnings: RefCell<Vec<String>>,
}

/// One value, where it stands, and where to note what is wrong with it.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    value: &'a Value,
    path: String,
    notes: &'a Notes,
}

/// A mapping with no unknown keys.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    section: &'static Section,
    map: &'a Map<String, Value>,
    path: String,
    notes: &'a Notes,
}

// === Notes ===

impl Notes {
    /// The configuration that was read, unless anything was wrong with it.
    pub(super) fn finish(self, config: Option<Config>) -> Result<Config, Mistakes> {
        let mistakes = self.mistakes.into_inner();
        match config {
            Some(config) if mistakes.is_empty() => Ok(Config {
                warnings: self.warnings.into_inner(),
                ..config
            }),
            Some(_) | None => Err(mistakes),
        }
    }

    #[cfg(test)]
    pub(super) fn into_mistakes(self) -> Mistakes {
        self.mistakes.into_inner()
    }

    pub(super) fn mistake(&self, path: &str, found: impl Into<String>, fix: impl Into<String>) {
        let mistake = Mistake {
            path: path.to_owned(),
            found: found.into(),
            fix: fix.into(),
        };
        self.mistakes.borrow_mut().push(mistake);
    }
}

// === Node ===

impl<'a> Node<'a> {
    /// A value that stands at `path`.
    pub(super) fn new(value: &'a Value, path: &str, notes: &'a Notes) -> Self {
        Self {
            value,
            path: path.to_owned(),
            notes,
        }
    }

    /// The whole document.
    pub(super) fn root(value: &'a Value, notes: &'a Notes) -> Self {
        Self::new(value, "", notes)
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn is_text(&self) -> bool {
        self.value.is_string()
    }

    pub(super) fn is_mapping(&self) -> bool {
        self.value.is_object()
    }

    /// Whether it is a mapping in which this key stands.
    pub(super) fn has(&self, key: &str) -> bool {
        self.value.get(key).is_some()
    }

    /// Whether it is text without a character in it, which a template writes for "none".
    pub(super) fn is_blank(&self) -> bool {
        self.value
            .as_str()
            .is_some_and(|text| text.trim().is_empty())
    }

    /// Notes a mistake elsewhere in the document.
    pub(super) fn mistake(&self, path: &str, found: impl Into<String>, fix: impl Into<String>) {
        self.notes.mistake(path, found, fix);
    }

    /// Notes something that is accepted but probably not meant.
    pub(super) fn warn(&self, warning: String) {
        self.notes.warnings.borrow_mut().push(warning);
    }

    /// Notes that this value is wrong; answers `None` for the caller to return.
    pub(super) fn wrong<T>(&self, fix: impl Into<String>) -> Option<T> {
        self.notes
            .mistake(&self.path, format!("found {}", shown(self.value)), fix);
        None
    }

    /// The mapping, its unknown keys noted.
    pub(super) fn fields(&self, section: &'static Section) -> Option<Fields<'a>> {
        let Some(map) = self.value.as_object() else {
            return self.wrong(format!("give a mapping with keys of {}", section.names()));
        };
        let fields = Fields {
            section,
            map,
            path: self.path.clone(),
            notes: self.notes,
        };
        fields.refuse_unknown();
        Some(fields)
    }

    /// The entries of a mapping with free keys.
    pub(super) fn entries(&self, fix: &str) -> Option<Vec<(&'a str, Self)>> {
        let Some(map) = self.value.as_object().filter(|map| !map.is_empty()) else {
            return self.wrong(fix);
        };
        let entry = |(key, value): (&'a String, &'a Value)| {
            (
                key.as_str(),
                Self::new(value, &joined(&self.path, key), self.notes),
            )
        };
        Some(map.iter().map(entry).collect())
    }

    /// A mapping whose keys and values are somebody else's.
    pub(super) fn free(&self, fix: &str) -> Option<Map<String, Value>> {
        match self.value.as_object() {
            Some(map) => Some(map.clone()),
            None => self.wrong(format!("give {fix}")),
        }
    }

    /// True or false, if the value is one of them.
    pub(super) fn as_flag(&self) -> Option<bool> {
        self.value.as_bool()
    }

    /// The items of a list that has from `min` to `max` of them.
    pub(super) fn items(&self, min: usize, max: usize, what: &str) -> Option<Vec<Self>> {
        let Some(items) = self
            .value
            .as_array()
            .filter(|items| (min..=max).contains(&items.len()))
        else {
            return self.wrong(format!("give a list of {min} to {max} {what}"));
        };
        let item =
            |(index, value)| Self::new(value, &format!("{}[{index}]", self.path), self.notes);
        Some(items.iter().enumerate().map(item).collect())
    }

    /// Text of a sane length, on one line.
    pub(super) fn text(&self, fix: &str) -> Option<&'a str> {
        let value = self.value;
        match value {
            Value::String(text) if is_sane(text) => Some(text),
            Value::Bool(_) | Value::Number(_) => self.wrong(format!("give {fix}, in quotes")),
            Value::String(_) | Value::Null | Value::Array(_) | Value::Object(_) => {
                self.wrong(format!("give {fix}"))
            }
        }
    }

    /// A port's number, if the value is one; helm may have put it in quotes.
    pub(super) fn port_number(&self) -> Option<u16> {
        let number = self
            .value
            .as_str()
            .map_or_else(|| whole(self.value), |text| text.parse().ok())?;
        u16::try_from(number).ok().filter(|port| *port > 0)
    }

    fn value_of<T>(&self, kind: &Kind, read: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        read(self.value).or_else(|| self.wrong(format!("give {}", kind.expected())))
    }
}

// === Fields ===

impl<'a> Fields<'a> {
    /// The value of a key, by its name or its other spelling; null is absent, as helm has it.
    pub(super) fn node(&self, name: &str) -> Option<Node<'a>> {
        let key = self.section.key(name);
        let mut given = key
            .spellings()
            .filter_map(|name| Some((name, self.map.get(name).filter(|v| !v.is_null())?)));
        let (first, value) = given.next()?;
        for (second, _) in given {
            self.notes.mistake(
                &self.path_of(second),
                format!("the same as `{first}`"),
                "give one of the two",
            );
        }
        Some(Node::new(value, &self.path_of(first), self.notes))
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        joined(&self.path, name)
    }

    /// Notes that a key is needed and absent.
    pub(super) fn missing(&self, name: &str, fix: &str) {
        self.notes.mistake(&self.path_of(name), "missing", fix);
    }

    /// Notes what is wrong between keys.
    pub(super) fn mistake(&self, name: &str, found: impl Into<String>, fix: impl Into<String>) {
        self.notes.mistake(&self.path_of(name), found, fix);
    }

    /// Notes something that is accepted but probably not meant.
    pub(super) fn warn(&self, warning: String) {
        self.notes.warnings.borrow_mut().push(warning);
    }

    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        let (node, kind) = self.known(name)?;
        let &Kind::Duration(min, max) = kind else {
            return mismatch(name);
        };
        let inside = |found: &Duration| (min..=max).contains(found);
        node.value_of(kind, |value| duration_of(value).filter(inside))
    }

    pub(super) fn size(&self, name: &str) -> Option<u64> {
        let (node, kind) = self.known(name)?;
        let &Kind::Size(min, max) = kind else {
            return mismatch(name);
        };
        let read = |value: &Value| value.as_str().map_or_else(|| whole(value), size::parse);
        node.value_of(kind, |value| {
            read(value).filter(|found| (min..=max).contains(found))
        })
    }

    pub(super) fn count(&self, name: &str) -> Option<u32> {
        let (node, kind) = self.known(name)?;
        let &Kind::Count(min, max) = kind else {
            return mismatch(name);
        };
        let read = |value: &Value| u32::try_from(whole(value)?).ok();
        node.value_of(kind, |value| {
            read(value).filter(|found| (min..=max).contains(found))
        })
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "weights and shares need no more than 24 bits"
    )]
    pub(super) fn number(&self, name: &str) -> Option<f32> {
        let (node, kind) = self.known(name)?;
        let &Kind::Number(min, max) = kind else {
            return mismatch(name);
        };
        let read = |value: &Value| value.as_f64().map(|found| found as f32);
        node.value_of(kind, |value| {
            read(value).filter(|found| (min..=max).contains(found))
        })
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        let (node, kind) = self.known(name)?;
        node.value_of(kind, Value::as_bool)
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        let (node, kind) = self.known(name)?;
        node.text(&kind.expected())
    }

    /// Which of the key's words was given.
    pub(super) fn one_of(&self, name: &str) -> Option<&'static str> {
        let (node, kind) = self.known(name)?;
        let &Kind::OneOf(words) = kind else {
            return mismatch(name);
        };
        node.value_of(kind, |value| {
            words
                .iter()
                .copied()
                .find(|word| value.as_str() == Some(word))
        })
    }

    fn known(&self, name: &str) -> Option<(Node<'a>, &'static Kind)> {
        Some((self.node(name)?, &self.section.key(name).kind))
    }

    fn refuse_unknown(&self) {
        let spellings = || self.section.keys.iter().flat_map(Key::spellings);
        for name in self
            .map
            .keys()
            .filter(|name| spellings().all(|known| known != name.as_str()))
        {
            let fix = match nearest(name, spellings()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None if self.path.is_empty() && name == "config" => {
                    "move what is under it to the top level of the file".to_owned()
                }
                None => format!("the keys here are {}", self.section.names()),
            };
            self.notes.mistake(&self.path_of(name), "unknown key", fix);
        }
    }
}

/// A reader asked for another kind than the section declares: a programming error that the tests of every key find.
fn mismatch<T>(name: &str) -> Option<T> {
    debug_assert!(false, "the key {name} is declared with another kind");
    None
}

/// The path of a key under `path`; a key that could be mistaken for a path is quoted.
pub(super) fn joined(path: &str, key: &str) -> String {
    let plain = key
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/'));
    let key = if plain && !key.is_empty() {
        excerpt(key)
    } else {
        format!("\"{}\"", excerpt(key))
    };
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}

fn is_sane(text: &str) -> bool {
    let trimmed = text.trim() == text && !text.is_empty();
    trimmed && text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

fn duration_of(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(seconds) => Duration::try_from_secs_f64(seconds.as_f64()?).ok(),
        Value::String(text) => duration::parse(text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A whole number; helm renders large ones as `6.7108864e+07`, which YAML reads as a float.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be whole, positive and exact"
)]
fn whole(value: &Value) -> Option<u64> {
    let exact = |float: &f64| float.fract() == 0.0 && (0.0..9e15).contains(float);
    value
        .as_u64()
        .or_else(|| value.as_f64().filter(exact).map(|float| float as u64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::sections::LIMITS;

    #[test]
    fn what_helm_makes_of_numbers_is_understood() {
        let value =
            json!({"maxBodyBytes": 6.710_886_4e7, "maxConcurrent": 2e3, "clientTimeout": "15"});
        let notes = Notes::default();
        let limits = Node::new(&value, "limits", &notes)
            .fields(&LIMITS)
            .expect("a mapping");
        assert_eq!(limits.size("maxBodyBytes"), Some(64 << 20));
        assert_eq!(limits.count("maxConcurrent"), Some(2_000));
        assert_eq!(
            limits.duration("clientTimeout"),
            Some(Duration::from_secs(15))
        );
        let ports = [json!(8000), json!("8000"), json!(8e3)];
        assert!(
            ports
                .iter()
                .all(|port| Node::root(port, &notes).port_number() == Some(8000))
        );
    }

    #[test]
    fn null_is_the_same_as_absent() {
        let value = json!({"maxConcurrent": null});
        let notes = Notes::default();
        let limits = Node::new(&value, "limits", &notes)
            .fields(&LIMITS)
            .expect("a mapping");
        assert!(limits.node("maxConcurrent").is_none());
        assert!(notes.mistakes.borrow().is_empty());
    }

    #[test]
    fn an_odd_key_cannot_forge_a_line_of_the_log() {
        assert_eq!(
            joined("pools[0]", "a\nlevel=error"),
            "pools[0].\"a\\nlevel=error\""
        );
        assert_eq!(
            joined("pools[0]", "app.kubernetes.io/name"),
            "pools[0].\"app.kubernetes.io/name\""
        );
    }
}
