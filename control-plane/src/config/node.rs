//! One value of the configuration file with its path.
//!
//! A value that is wrong is recorded in the diagnostics and read as `None`, so that the rest of the
//! file is checked too.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use serde_json::{Map, Value};

use super::{
    diagnostics::Diagnostics,
    duration,
    error::{excerpt, shown},
    size,
};

/// Longest name, label, path or model that is accepted, in bytes.
const MAX_TEXT: usize = 512;

/// One value and its path, with the diagnostics that its errors are recorded in.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    value: &'a Value,
    path: String,
    diagnostics: &'a Diagnostics,
}

impl<'a> Node<'a> {
    /// The value at `path`.
    pub(crate) fn new(value: &'a Value, path: &str, diagnostics: &'a Diagnostics) -> Self {
        Self {
            value,
            path: path.to_owned(),
            diagnostics,
        }
    }

    /// A value under `key` of this mapping.
    pub(crate) fn child(&self, key: &str, value: &'a Value) -> Self {
        Self::new(value, &self.path_of(key), self.diagnostics)
    }

    /// The value under `key` of this mapping; null is absent, as in helm.
    pub(crate) fn field(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        Some(self.child(key, value))
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The path of `key` under this mapping.
    pub(crate) fn path_of(&self, key: &str) -> String {
        joined(&self.path, key)
    }

    pub(crate) fn diagnostics(&self) -> &'a Diagnostics {
        self.diagnostics
    }

    /// A priority; of another value it is recorded what would be right.
    pub(super) fn priority(&self) -> Option<i32> {
        signed(self.value).or_else(|| {
            self.wrong("expected a priority, a whole number from -2147483648 to 2147483647")
        })
    }

    pub(crate) fn value(&self) -> &'a Value {
        self.value
    }

    /// Whether it is text without visible characters, which a template renders for "none".
    pub(super) fn is_blank(&self) -> bool {
        self.value
            .as_str()
            .is_some_and(|text| text.trim().is_empty())
    }

    /// Records that this value is wrong; returns `None` for the caller to return.
    pub(crate) fn wrong<T>(&self, fix: impl Into<String>) -> Option<T> {
        let found = format!("found {}", shown(self.value));
        self.diagnostics.error(&self.path, found, fix);
        None
    }

    /// Records that this mapping lacks a key; returns `None` for the caller to return.
    pub(crate) fn lacks<T>(&self, key: &str, fix: &str) -> Option<T> {
        self.diagnostics.error(&self.path_of(key), "missing", fix);
        None
    }

    /// The mapping, if it is one.
    pub(crate) fn mapping(&self) -> Option<&'a Map<String, Value>> {
        self.value.as_object()
    }

    /// The entries of a mapping with free keys; at least one.
    pub(crate) fn entries(&self, expected: &str) -> Option<Vec<(&'a str, Self)>> {
        let Some(map) = self.mapping().filter(|map| !map.is_empty()) else {
            return self.wrong(format!("expected {expected}"));
        };
        let entry = |(key, value): (&'a String, &'a Value)| (key.as_str(), self.child(key, value));
        Some(map.iter().map(entry).collect())
    }

    /// The items of a list whose length is in `count`.
    pub(crate) fn items(&self, count: &RangeInclusive<usize>, of: &str) -> Option<Vec<Self>> {
        let items = self.value.as_array();
        let Some(items) = items.filter(|items| count.contains(&items.len())) else {
            let (min, max) = (count.start(), count.end());
            return self.wrong(format!("expected a list of {min} to {max} {of}"));
        };
        let item = |(index, value)| {
            let path = format!("{}[{index}]", self.path);
            Self::new(value, &path, self.diagnostics)
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// The items of a list in which none may occur twice; two are the same when `show` writes them
    /// alike.
    pub(super) fn distinct<T>(
        &self,
        count: &RangeInclusive<usize>,
        of: &str,
        read: impl Fn(&Self) -> Option<T>,
        show: impl Fn(&T) -> String,
    ) -> Option<Vec<T>> {
        let mut seen = BTreeSet::new();
        let mut read_items = Vec::new();
        for item in self.items(count, of)? {
            let Some(read) = read(&item) else { continue };
            if seen.insert(show(&read)) {
                read_items.push(read);
            } else {
                item.wrong::<()>("remove it: it is in the list already");
            }
        }
        Some(read_items)
    }

    /// Text on one line, of at most [`MAX_TEXT`] bytes, without space at its ends.
    pub(crate) fn text(&self, expected: &str) -> Option<&'a str> {
        let value = self.value;
        match value {
            Value::String(text) if is_plain(text) => Some(text),
            Value::Bool(_) | Value::Number(_) => {
                self.wrong(format!("expected {expected}, in quotes"))
            }
            Value::String(_) | Value::Null | Value::Array(_) | Value::Object(_) => {
                self.wrong(format!("expected {expected}"))
            }
        }
    }

    /// A port's number, if the value is one; helm may have put it in quotes.
    pub(crate) fn port_number(&self) -> Option<u16> {
        let text = self.value.as_str();
        let number = text.map_or_else(|| whole(self.value), |text| text.parse().ok())?;
        u16::try_from(number).ok().filter(|port| *port > 0)
    }
}

/// The path of a key under `path`; a key that could be mistaken for a path is quoted.
pub(super) fn joined(path: &str, key: &str) -> String {
    let is_plain = key
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/'));
    let key = if is_plain && !key.is_empty() {
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

fn is_plain(text: &str) -> bool {
    let is_trimmed = text.trim() == text && !text.is_empty();
    is_trimmed && text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

/// A duration, as text or as a number of seconds.
pub(super) fn duration_of(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(seconds) => Duration::try_from_secs_f64(seconds.as_f64()?).ok(),
        Value::String(text) => duration::parse(text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A size, as text or as a number of bytes.
pub(super) fn size_of(value: &Value) -> Option<u64> {
    value.as_str().map_or_else(|| whole(value), size::parse)
}

/// A whole number; helm renders large ones as `6.7108864e+07`, which YAML reads as a float.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be whole, positive and exact"
)]
pub(crate) fn whole(value: &Value) -> Option<u64> {
    let is_exact = |float: &f64| float.fract() == 0.0 && (0.0..9e15).contains(float);
    let float = || value.as_f64().filter(is_exact);
    value.as_u64().or_else(|| float().map(|float| float as u64))
}

/// A whole number that may be negative.
fn signed(value: &Value) -> Option<i32> {
    match value.as_i64() {
        Some(number) => i32::try_from(number).ok(),
        None => i32::try_from(whole(value)?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_may_be_quoted_or_a_float_as_helm_renders_it() {
        let diagnostics = Diagnostics::default();
        let ports = [json!(8000), json!("8000"), json!(8e3)];
        for port in &ports {
            let number = Node::new(port, "port", &diagnostics).port_number();
            assert_eq!(number, Some(8000), "{port}");
        }
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
