//! The description of a key: what documentation, the chart's schema and error messages say of it.

use std::{borrow::Cow, ops::RangeInclusive, time::Duration};

use super::{duration, size};

/// One key of a mapping.
#[derive(Clone, Debug)]
pub struct KeyDescription {
    /// Its name.
    pub name: &'static str,
    /// Other accepted spellings.
    pub aliases: Vec<&'static str>,
    /// The values of the deciding key, such as a strategy's name, that this key applies to; empty
    /// for all.
    pub owners: &'static [&'static str],
    /// What its value may be.
    pub value_type: ValueType,
    /// What counts when the key is absent.
    pub default: DefaultValue,
    /// What it does, in a sentence.
    pub meaning: Cow<'static, str>,
}

/// What a value may be. Ranges include both ends.
#[derive(Clone, Debug)]
pub enum ValueType {
    /// `50ms`, `1m30s`, or a number of seconds.
    Duration(RangeInclusive<Duration>),
    /// `64MiB`, or a number of bytes.
    Size(RangeInclusive<u64>),
    /// A whole number.
    Count(RangeInclusive<u32>),
    /// A number.
    Number(RangeInclusive<f32>),
    /// True or false.
    Flag,
    /// Text; says which.
    Text(&'static str),
    /// One of these words.
    OneOf(Vec<&'static str>),
    /// A port's number, or its name.
    Port,
    /// A list of text; says of what.
    Texts(String),
    /// A list of mappings with these keys; says of what.
    List(&'static str, Vec<KeyDescription>),
    /// A mapping with free keys; says which.
    Map(&'static str),
    /// A mapping with these keys.
    Section(Vec<KeyDescription>),
    /// Text, or a mapping with these keys; says which.
    TextOrSection(&'static str, Vec<KeyDescription>),
    /// True, false, or a mapping with these keys.
    FlagOrSection(Vec<KeyDescription>),
}

/// What counts when a key is absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// Nothing, or the defaults of the keys inside.
    Absent,
    /// The key must be given.
    Required,
    /// This value, as it would be written.
    Value(String),
    /// What these words say.
    Words(Cow<'static, str>),
}

impl KeyDescription {
    /// Its name and its aliases.
    pub fn spellings(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// The keys inside its value, if it is a mapping or a list of mappings.
    #[must_use]
    pub fn keys(&self) -> &[Self] {
        match &self.value_type {
            ValueType::List(_, keys)
            | ValueType::Section(keys)
            | ValueType::TextOrSection(_, keys)
            | ValueType::FlagOrSection(keys) => keys,
            ValueType::Duration(_)
            | ValueType::Size(_)
            | ValueType::Count(_)
            | ValueType::Number(_)
            | ValueType::Flag
            | ValueType::Text(_)
            | ValueType::OneOf(_)
            | ValueType::Port
            | ValueType::Texts(_)
            | ValueType::Map(_) => &[],
        }
    }

    /// Its meaning for a reader of the documentation, with what it applies to.
    #[must_use]
    pub fn description(&self) -> String {
        if self.owners.is_empty() {
            return self.meaning.clone().into_owned();
        }
        format!("For `{}`: {}", self.owners.join("` and `"), self.meaning)
    }
}

impl ValueType {
    /// For a message: "a duration from 1ms to 1m".
    #[must_use]
    pub fn expected(&self) -> String {
        match self {
            Self::Duration(_) => format!("a duration {}, such as 50ms, 2s or 1m30s", self.range()),
            Self::Size(_) => format!("a size {}, such as 64KiB or 65536", self.range()),
            Self::Count(_) => format!("a whole number {}", self.range()),
            Self::Number(_) => format!("a number {}", self.range()),
            Self::Flag => "true or false".to_owned(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::Port => "a port from 1 to 65535, or a port's name".to_owned(),
            Self::Text(what) | Self::Map(what) | Self::TextOrSection(what, _) => (*what).to_owned(),
            Self::Texts(what) => format!("a list of {what}"),
            Self::List(what, _) => format!("a list of {what}"),
            Self::Section(keys) => format!("a mapping with the keys {}", names(keys)),
            Self::FlagOrSection(_) => "true, false, or a mapping".to_owned(),
        }
    }

    /// For a message or a table: "from 1ms to 1m"; empty when there is none.
    #[must_use]
    pub fn range(&self) -> String {
        let (min, max) = match self {
            Self::Duration(range) => {
                let [min, max] = [range.start(), range.end()].map(|end| duration::display(*end));
                (min, max)
            }
            Self::Size(range) => (size::display(*range.start()), size::display(*range.end())),
            Self::Count(range) => (range.start().to_string(), range.end().to_string()),
            Self::Number(range) => (range.start().to_string(), range.end().to_string()),
            Self::Flag
            | Self::Text(_)
            | Self::OneOf(_)
            | Self::Port
            | Self::Texts(_)
            | Self::List(..)
            | Self::Map(_)
            | Self::Section(_)
            | Self::TextOrSection(..)
            | Self::FlagOrSection(_) => return String::new(),
        };
        format!("from {min} to {max}")
    }
}

/// For a message: `connect, request, firstByte`.
pub(super) fn names(keys: &[KeyDescription]) -> String {
    let names: Vec<&str> = keys.iter().map(|key| key.name).collect();
    names.join(", ")
}
