//! A mapping of the configuration file while it is read: each call reads one key and describes it.
//!
//! ```text
//!   RetryPolicy { max_attempts: section.count("maxAttempts", 1..=10, "Attempts per request …").or(defaults.attempts), … }
//!                                  name, range, meaning, default and field: one row
//! ```
//!
//! A function that reads a section therefore also describes it: run over nothing, it yields the
//! keys for the documentation, for the chart's schema and for messages, and the value that the
//! section has when it is absent. A value that is wrong is recorded, and the default takes its
//! place, so that the rest of the file is checked too.

mod reading;

use std::{borrow::Cow, fmt::Display, ops::RangeInclusive, sync::Arc, time::Duration};

use hermes_core::nearest::nearest;
use serde_json::{Map, Value};

use self::reading::KeyNames;
pub(super) use self::reading::Reading;
use super::{
    diagnostics::Diagnostics,
    duration,
    key::{DefaultValue, KeyDescription, ValueType, names},
    node::{Node, duration_of, size_of, whole},
    size,
};

/// One mapping, its keys, and those of them that were read so far.
#[derive(Debug)]
pub(super) struct Section<'a> {
    node: Node<'a>,
    map: &'a Map<String, Value>,
    owners: &'static [&'static str],
    keys: Vec<KeyDescription>,
}

// === Section ===

impl<'a> Section<'a> {
    /// Reads the mapping at `node`; `None` if it is none, which is recorded.
    pub(super) fn read<T>(node: &Node<'a>, read: impl Fn(&mut Section<'_>) -> T) -> Option<T> {
        let Some(map) = node.mapping() else {
            let (_, keys) = Section::describe(read);
            return node.wrong(format!("expected {}", ValueType::Section(keys).expected()));
        };
        Some(Section::run(node.clone(), map, read).0)
    }

    /// What `read` makes of an absent mapping, and the keys that it reads.
    pub(super) fn describe<T>(read: impl Fn(&mut Section<'_>) -> T) -> (T, Vec<KeyDescription>) {
        let (diagnostics, map) = (Diagnostics::default(), Map::new());
        Section::run(Node::new(&Value::Null, "", &diagnostics), &map, read)
    }

    fn run<T>(
        node: Node<'a>,
        map: &'a Map<String, Value>,
        read: impl Fn(&mut Section<'_>) -> T,
    ) -> (T, Vec<KeyDescription>) {
        let mut section = Section {
            node,
            map,
            owners: &[],
            keys: Vec::new(),
        };
        let value = read(&mut section);
        section.refuse_unknown();
        (value, section.keys)
    }

    pub(super) fn path(&self) -> &str {
        self.node.path()
    }

    /// Whether a key, by any of its spellings, has a value; null is absent, as in helm.
    pub(super) fn has(&self, name: &str) -> bool {
        let key = self.keys.iter().find(|key| key.name == name);
        let given = |name: &str| self.map.get(name).is_some_and(|value| !value.is_null());
        key.is_some_and(|key| key.spellings().any(given))
    }

    /// Whether the value of a key is a mapping with this key.
    pub(super) fn has_inside(&self, name: &str, inside: &str) -> bool {
        self.map
            .get(name)
            .is_some_and(|value| value.get(inside).is_some())
    }

    /// Records what is wrong with a key in relation to others.
    pub(super) fn error(&self, name: &str, found: impl Into<String>, fix: impl Into<String>) {
        let path = self.node.path_of(name);
        self.node.diagnostics().error(&path, found, fix);
    }

    /// Records what is wrong with the section as a whole.
    pub(super) fn own_error(&self, found: &str, fix: &str) {
        self.node.diagnostics().error(self.path(), found, fix);
    }

    /// Records that a key is accepted but probably not intended.
    pub(super) fn warn(&self, name: &str, warning: &str) {
        let path = self.node.path_of(name);
        self.node.diagnostics().warn(format!("{path}: {warning}"));
    }

    /// Reads keys that apply only to these values of the section's deciding key.
    pub(super) fn only_for<T>(
        &mut self,
        owners: &'static [&'static str],
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        self.owners = owners;
        let value = read(self);
        self.owners = &[];
        value
    }

    /// The keys that are given although they do not apply to `owner`.
    pub(super) fn foreign(&self, owner: &str) -> Vec<KeyDescription> {
        let is_foreign = |key: &&KeyDescription| {
            !key.owners.is_empty() && !key.owners.contains(&owner) && self.has(key.name)
        };
        self.keys.iter().filter(is_foreign).cloned().collect()
    }

    /// Reads a key by a function of its own; `show` writes a default.
    pub(super) fn value<T, S: Fn(&T) -> String>(
        &mut self,
        names: impl Into<KeyNames>,
        value_type: ValueType,
        meaning: impl Into<Cow<'static, str>>,
        read: impl FnOnce(&Node<'a>) -> Option<T>,
        show: S,
    ) -> Reading<'_, 'a, T, S> {
        let KeyNames { name, aliases } = names.into();
        self.keys.push(KeyDescription {
            name,
            aliases,
            owners: self.owners,
            value_type,
            default: DefaultValue::Absent,
            meaning: meaning.into(),
        });
        let value = self.given().and_then(|node| read(&node));
        Reading {
            section: self,
            name,
            value,
            show,
        }
    }

    pub(super) fn duration(
        &mut self,
        names: impl Into<KeyNames>,
        range: RangeInclusive<Duration>,
        meaning: impl Into<Cow<'static, str>>,
    ) -> Reading<'_, 'a, Duration, impl Fn(&Duration) -> String> {
        let value_type = ValueType::Duration(range.clone());
        let read = move |value: &Value| duration_of(value).filter(|found| range.contains(found));
        let show = |shown: &Duration| duration::display(*shown);
        self.scalar(names, value_type, meaning, read, show)
    }

    pub(super) fn size<T: TryFrom<u64> + TryInto<u64> + Copy>(
        &mut self,
        names: impl Into<KeyNames>,
        range: RangeInclusive<u64>,
        meaning: impl Into<Cow<'static, str>>,
    ) -> Reading<'_, 'a, T, impl Fn(&T) -> String> {
        let value_type = ValueType::Size(range.clone());
        let read = move |value: &Value| {
            let size = size_of(value).filter(|found| range.contains(found))?;
            T::try_from(size).ok()
        };
        let show = |shown: &T| (*shown).try_into().map(size::display).unwrap_or_default();
        self.scalar(names, value_type, meaning, read, show)
    }

    pub(super) fn count<T: TryFrom<u32> + Display>(
        &mut self,
        names: impl Into<KeyNames>,
        range: RangeInclusive<u32>,
        meaning: impl Into<Cow<'static, str>>,
    ) -> Reading<'_, 'a, T, impl Fn(&T) -> String> {
        let value_type = ValueType::Count(range.clone());
        let read = move |value: &Value| {
            let count = u32::try_from(whole(value)?).ok();
            T::try_from(count.filter(|found| range.contains(found))?).ok()
        };
        self.scalar(names, value_type, meaning, read, T::to_string)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "weights and shares need no more than 24 bits"
    )]
    pub(super) fn number(
        &mut self,
        names: impl Into<KeyNames>,
        range: RangeInclusive<f32>,
        meaning: impl Into<Cow<'static, str>>,
    ) -> Reading<'_, 'a, f32, impl Fn(&f32) -> String> {
        let value_type = ValueType::Number(range.clone());
        let read = move |value: &Value| {
            let number = value.as_f64()? as f32;
            range.contains(&number).then_some(number)
        };
        self.scalar(names, value_type, meaning, read, f32::to_string)
    }

    pub(super) fn flag(
        &mut self,
        names: impl Into<KeyNames>,
        meaning: impl Into<Cow<'static, str>>,
    ) -> Reading<'_, 'a, bool, impl Fn(&bool) -> String> {
        self.scalar(
            names,
            ValueType::Flag,
            meaning,
            Value::as_bool,
            bool::to_string,
        )
    }

    /// One of several words, each with its meaning.
    pub(super) fn one_of<T: Clone + PartialEq>(
        &mut self,
        names: impl Into<KeyNames>,
        words: &[(&'static str, T)],
        meaning: impl Into<Cow<'static, str>>,
    ) -> Reading<'_, 'a, T, impl Fn(&T) -> String> {
        let value_type = ValueType::OneOf(words.iter().map(|(word, _)| *word).collect());
        let read = |value: &Value| {
            let (_, meant) = words.iter().find(|(word, _)| value == word)?;
            Some(meant.clone())
        };
        let show = move |shown: &T| {
            let word = words.iter().find(|(_, meant)| meant == shown);
            word.map(|(word, _)| (*word).to_owned()).unwrap_or_default()
        };
        self.scalar(names, value_type, meaning, read, show)
    }

    pub(super) fn text(
        &mut self,
        names: impl Into<KeyNames>,
        expected: &'static str,
        meaning: impl Into<Cow<'static, str>>,
    ) -> Reading<'_, 'a, Arc<str>, impl Fn(&Arc<str>) -> String> {
        self.text_where(names, expected, |_| true, meaning)
    }

    /// Text that `is_right` accepts.
    pub(super) fn text_where(
        &mut self,
        names: impl Into<KeyNames>,
        expected: &'static str,
        is_right: impl Fn(&str) -> bool,
        meaning: impl Into<Cow<'static, str>>,
    ) -> Reading<'_, 'a, Arc<str>, impl Fn(&Arc<str>) -> String> {
        let read = |node: &Node<'a>| {
            let text = node.text(expected)?;
            if is_right(text) {
                Some(Arc::from(text))
            } else {
                node.wrong(format!("expected {expected}"))
            }
        };
        self.value(names, ValueType::Text(expected), meaning, read, quoted)
    }

    /// Text of which `parse` makes a value.
    pub(super) fn parsed<T: Display>(
        &mut self,
        names: impl Into<KeyNames>,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
        meaning: impl Into<Cow<'static, str>>,
    ) -> Reading<'_, 'a, T, impl Fn(&T) -> String> {
        let read = |node: &Node<'a>| {
            parse(node.text(expected)?).or_else(|| node.wrong(format!("expected {expected}")))
        };
        self.value(
            names,
            ValueType::Text(expected),
            meaning,
            read,
            T::to_string,
        )
    }

    /// A list of text of which `of` says what it is; no item may occur twice.
    pub(super) fn texts<T>(
        &mut self,
        names: impl Into<KeyNames>,
        count: RangeInclusive<usize>,
        of: &str,
        meaning: impl Into<Cow<'static, str>>,
        read: impl Fn(&Node<'a>) -> Option<T>,
        show: impl Fn(&T) -> String + Copy,
    ) -> Reading<'_, 'a, Vec<T>, impl Fn(&Vec<T>) -> String> {
        let value_type = ValueType::Texts(format!("{} to {} {of}", count.start(), count.end()));
        let show_all = move |items: &Vec<T>| {
            let items: Vec<String> = items.iter().map(show).collect();
            format!("[{}]", items.join(", "))
        };
        let read = |node: &Node<'a>| node.distinct(&count, of, read, show);
        self.value(names, value_type, meaning, read, show_all)
    }

    /// A section whose keys have defaults.
    pub(super) fn section<T>(
        &mut self,
        name: &'static str,
        meaning: impl Into<Cow<'static, str>>,
        read: impl Fn(&mut Section<'_>) -> T,
    ) -> T {
        let (defaults, keys) = Section::describe(&read);
        let read = |node: &Node<'a>| Section::read(node, &read);
        let reading = self.value(name, ValueType::Section(keys), meaning, read, |_| {
            String::new()
        });
        reading.value.unwrap_or(defaults)
    }

    /// A section that is `None` when it is absent or wrong.
    pub(super) fn optional_section<T>(
        &mut self,
        name: &'static str,
        meaning: impl Into<Cow<'static, str>>,
        read: impl Fn(&mut Section<'_>) -> T,
    ) -> Option<T> {
        self.section(name, meaning, |section| {
            let value = read(section);
            (!section.is_absent()).then_some(value)
        })
    }

    /// A list of sections, each with its path; empty when it is absent or wrong.
    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        count: RangeInclusive<usize>,
        meaning: impl Into<Cow<'static, str>>,
        read: impl Fn(&mut Section<'_>) -> Option<T>,
    ) -> Vec<T> {
        let (_, keys) = Section::describe(&read);
        let read = |node: &Node<'a>| {
            let items = node.items(&count, name)?;
            let items = items.iter().filter_map(|item| Section::read(item, &read)?);
            Some(items.collect())
        };
        let reading = self.value(name, ValueType::List(name, keys), meaning, read, |_| {
            String::new()
        });
        reading.value.unwrap_or_default()
    }

    fn scalar<T, S: Fn(&T) -> String>(
        &mut self,
        names: impl Into<KeyNames>,
        value_type: ValueType,
        meaning: impl Into<Cow<'static, str>>,
        read: impl FnOnce(&Value) -> Option<T>,
        show: S,
    ) -> Reading<'_, 'a, T, S> {
        let expected = value_type.expected();
        let read = |node: &Node<'a>| {
            read(node.value()).or_else(|| node.wrong(format!("expected {expected}")))
        };
        self.value(names, value_type, meaning, read, show)
    }

    /// Whether the section is only described.
    fn is_absent(&self) -> bool {
        self.node.value().is_null()
    }

    /// The value of the key that was described last, by whichever spelling it has.
    fn given(&self) -> Option<Node<'a>> {
        let key = self.keys.last()?;
        let map = self.map;
        let mut given = key.spellings().filter_map(|name| {
            let value = map.get(name).filter(|value| !value.is_null())?;
            Some((name, value))
        });
        let (first, value) = given.next()?;
        for (second, _) in given {
            let found = format!("the same key as `{first}`");
            self.error(second, found, "set only one of the two");
        }
        Some(self.node.child(first, value))
    }

    fn refuse_unknown(&self) {
        let spellings = || self.keys.iter().flat_map(KeyDescription::spellings);
        for name in self.map.keys() {
            if spellings().any(|known| known == name) {
                continue;
            }
            let fix = match nearest(name, spellings()).first() {
                Some(meant) => format!("did you mean `{meant}`?"),
                None if self.path().is_empty() && name == "config" => {
                    "move what is under it to the top level of the file".to_owned()
                }
                None => format!("the keys here are {}", names(&self.keys)),
            };
            self.error(name, "unknown key", fix);
        }
    }
}

/// Text as it would be written: YAML reads a number where it is not in quotes.
fn quoted(text: &Arc<str>) -> String {
    if text.parse::<f64>().is_ok() {
        format!("\"{text}\"")
    } else {
        text.to_string()
    }
}

#[cfg(test)]
mod tests;
