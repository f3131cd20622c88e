//! Text that is matched: as it is, or by a regular expression.

use std::{fmt, sync::Arc};

use regex::bytes::{Regex, RegexBuilder};
use serde::{Serialize, Serializer};

/// Longest expression in bytes.
const MAX_TEXT: usize = 1_024;

/// Largest compiled expression, and largest cache of its states, in bytes.
const MAX_SIZE: usize = 64 << 10;

/// What a text has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TextMatch {
    /// This, byte by byte.
    Exact(Arc<str>),
    /// What the whole of it matches.
    Pattern(TextPattern),
}

/// A compiled regular expression, in the syntax of the crate `regex` and over bytes: it has no
/// references back and no look around, so that its time is linear in the text, whatever that is.
/// Classes such as `\d` are those of ASCII.
#[derive(Clone)]
pub struct TextPattern {
    text: Arc<str>,
    regex: Regex,
}

/// The text is no regular expression, or one that is too large.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a regular expression of at most {MAX_TEXT} bytes that compiles to at most 64 KiB, without references back or look around"
)]
pub struct BadPattern;

// === TextMatch ===

impl TextMatch {
    /// Whether it is `text`.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(wanted) => wanted.as_bytes() == text,
            Self::Pattern(pattern) => pattern.matches(text),
        }
    }
}

// === TextPattern ===

impl TextPattern {
    /// Compiles the expression.
    ///
    /// # Errors
    /// When it is none, or too large.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(BadPattern);
        }
        // By itself first: what is put around it must not complete it.
        compiled(text)?;
        Ok(Self {
            regex: compiled(&format!(r"\A(?:{text})\z"))?,
            text: text.into(),
        })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }
}

fn compiled(text: &str) -> Result<Regex, BadPattern> {
    let mut builder = RegexBuilder::new(text);
    builder.unicode(false).size_limit(MAX_SIZE);
    builder.dfa_size_limit(MAX_SIZE).nest_limit(32);
    builder.build().map_err(|_| BadPattern)
}

/// By the text.
impl PartialEq for TextPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for TextPattern {}

impl fmt::Debug for TextPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

/// As it was written.
impl fmt::Display for TextPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for TextPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_whole_text_has_to_match() {
        let pattern = TextPattern::parse("/v[0-9]+|/latest").expect("an expression");
        for text in ["/v1", "/v22", "/latest"] {
            assert!(pattern.matches(text.as_bytes()), "{text}");
        }
        for text in ["/v1/x", "x/v1", "/v", "/latest\n"] {
            assert!(!pattern.matches(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn an_expression_that_is_no_whole_one_is_refused() {
        let nested = "(".repeat(100) + &")".repeat(100);
        let huge = "(a{500}){500}";
        for text in [
            "",
            "(",
            "a)|(b",
            "(?x)a # b",
            r"(a)\1",
            "(?=a)",
            &nested,
            huge,
        ] {
            assert!(TextPattern::parse(text).is_err(), "{text}");
        }
        assert!(TextPattern::parse(&"a".repeat(MAX_TEXT + 1)).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_an_expression_or_refused(text in "\\PC{0,40}", matched: Vec<u8>) {
            if let Ok(pattern) = TextPattern::parse(&text) {
                _ = pattern.matches(&matched);
            }
        }
    }
}
