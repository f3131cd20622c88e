//! A key that was read, and the default that completes its description.

use std::borrow::Cow;

use super::{super::key::DefaultValue, Section};

/// A key's name and its aliases.
#[derive(Debug)]
pub(in super::super) struct KeyNames {
    pub(super) name: &'static str,
    pub(super) aliases: Vec<&'static str>,
}

/// A key that was read and still needs its default.
#[must_use = "a key needs a default"]
pub(in super::super) struct Reading<'s, 'a, T, S> {
    pub(super) section: &'s mut Section<'a>,
    pub(super) name: &'static str,
    pub(super) value: Option<T>,
    pub(super) show: S,
}

// === KeyNames ===

impl From<&'static str> for KeyNames {
    fn from(name: &'static str) -> Self {
        Self {
            name,
            aliases: Vec::new(),
        }
    }
}

impl<const N: usize> From<(&'static str, [&'static str; N])> for KeyNames {
    fn from((name, aliases): (&'static str, [&'static str; N])) -> Self {
        Self {
            name,
            aliases: aliases.to_vec(),
        }
    }
}

// === Reading ===

impl<T, S: Fn(&T) -> String> Reading<'_, '_, T, S> {
    /// The value, or this default.
    pub(in super::super) fn or(self, default: T) -> T {
        let shown = DefaultValue::Value((self.show)(&default));
        self.with_default(shown).unwrap_or(default)
    }

    /// The value, if it is given; the caller applies this default, depending on other keys.
    pub(in super::super) fn or_implied(self, default: &T) -> Option<T> {
        let shown = DefaultValue::Value((self.show)(default));
        self.with_default(shown)
    }

    /// The value, if it is given; `words` say what counts otherwise.
    pub(in super::super) fn or_unset(self, words: impl Into<Cow<'static, str>>) -> Option<T> {
        self.with_default(DefaultValue::Words(words.into()))
    }

    /// The value, which must be given.
    pub(in super::super) fn required(self, fix: &str) -> Option<T> {
        if !self.section.has(self.name) {
            self.section.error(self.name, "missing", fix);
        }
        self.with_default(DefaultValue::Required)
    }

    /// The value, if it is given.
    pub(in super::super) fn optional(self) -> Option<T> {
        self.value
    }

    fn with_default(self, default: DefaultValue) -> Option<T> {
        if let Some(key) = self.section.keys.last_mut() {
            key.default = default;
        }
        self.value
    }
}
