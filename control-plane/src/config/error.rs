//! The errors of a configuration, written for the person who has to correct them.
//!
//! An error states where it is, what was found there and what to do. The texts contain excerpts of
//! the file, shortened and without the credentials of a URL, since they reach the log and
//! `/readyz`.

use std::fmt;

use serde_json::Value;

/// Most errors that are kept; more are counted. This bounds what a hostile file writes to the log.
const MAX_LISTED: usize = 1_000;

/// Longest excerpt of what was typed, in characters.
const MAX_SHOWN: usize = 120;

/// One thing to correct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The key: `pools[1].timeouts.connect`; empty for the file as a whole.
    pub path: String,
    /// What was found: `found "fast"`, `unknown key`.
    pub found: String,
    /// What to do about it.
    pub fix: String,
}

/// Everything that is wrong with one configuration; as an error, never empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    listed: Vec<ConfigError>,
    unlisted: usize,
}

// === ConfigError ===

impl ConfigError {
    /// An error of the file as a whole.
    pub(super) fn of_file(found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            found: found.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, found, fix } = self;
        if path.is_empty() {
            write!(f, "{found}; {fix}")
        } else {
            write!(f, "{path}: {found}; {fix}")
        }
    }
}

// === ConfigErrors ===

impl ConfigErrors {
    /// The errors, in the order in which they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.listed.iter()
    }

    /// How many there are, those over the bound of the list included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.listed.len() + self.unlisted
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn push(&mut self, error: ConfigError) {
        if self.listed.len() < MAX_LISTED {
            self.listed.push(error);
        } else {
            self.unlisted += 1;
        }
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self {
            listed: vec![error],
            unlisted: 0,
        }
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listed, unlisted } = self;
        for (index, error) in listed.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        if *unlisted > 0 {
            write!(f, "\nand {unlisted} more")?;
        }
        Ok(())
    }
}

/// What was typed, for a message: shortened, on one line, without a URL's credentials.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(_) | Value::Number(_) => format!("`{value}`"),
        Value::String(text) => format!("`{}`", excerpt(text)),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// A piece of typed text, for a message or a path.
pub(super) fn excerpt(text: &str) -> String {
    let without_credentials = text
        .rsplit_once('@')
        .filter(|(before, _)| before.contains([':', '/']));
    let text = match without_credentials {
        Some((_, host)) => format!("…@{host}"),
        None => text.to_owned(),
    };
    let mut short: String = text.chars().take(MAX_SHOWN).map(printable).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        short.push('…');
    }
    short
}

/// Control characters, and what would turn the direction of the line, are written as escapes.
fn printable(c: char) -> String {
    if matches!(c, '"' | '\'' | '\\') {
        c.to_string()
    } else {
        c.escape_debug().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_control_characters_never_reach_a_message() {
        assert_eq!(excerpt("http://user:secret@host:1"), "…@host:1");
        assert_eq!(excerpt("user:secret@host"), "…@host");
        assert_eq!(
            excerpt("a\nb\u{1b}[31m \u{202e}"),
            "a\\nb\\u{1b}[31m \\u{202e}"
        );
        assert_eq!(excerpt("it's \"x\""), "it's \"x\"");
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(excerpt(&"x".repeat(500)).chars().count(), MAX_SHOWN + 1);
    }

    #[test]
    fn the_list_is_bounded_and_the_count_is_not() {
        let mut errors = ConfigErrors::default();
        for _ in 0..MAX_LISTED + 5 {
            errors.push(ConfigError::of_file("wrong", "right"));
        }
        assert_eq!(
            (errors.len(), errors.iter().count()),
            (MAX_LISTED + 5, MAX_LISTED)
        );
        assert!(errors.to_string().ends_with("and 5 more"));
    }
}
