//! JSON strings that are passed on as they are: neither decoded nor encoded again.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A string of a body, as its JSON with quotes and escapes.
///
/// What is copied from one body into another keeps its bytes, so that even escapes which are no
/// text, such as half of a surrogate pair at the end of a fragment, are not lost.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct JsonString<'a>(&'a RawValue);

impl<'a> JsonString<'a> {
    /// `None` if the value is no string.
    pub(crate) fn of(raw: &'a RawValue) -> Option<Self> {
        raw.get().starts_with('"').then_some(Self(raw))
    }

    pub(crate) fn is_empty(self) -> bool {
        self.escaped().is_empty()
    }

    /// The JSON of the string.
    pub(crate) const fn raw(self) -> &'a RawValue {
        self.0
    }

    /// The characters between the quotes, escaped.
    pub(crate) fn escaped(self) -> &'a str {
        let json = self.0.get();
        &json[1..json.len() - 1]
    }

    /// The text. `None` if its escapes are no characters.
    pub(crate) fn text(self) -> Option<Cow<'a, str>> {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        let escaped = self.escaped();
        if escaped.contains('\\') {
            let text: Text<'a> = serde_json::from_str(self.0.get()).ok()?;
            return Some(text.0);
        }
        Some(escaped.into())
    }

    /// The text of JSON that is written in the string. Halves of surrogate pairs, which are no
    /// characters, stay escaped in it, as its own strings may have them.
    pub(crate) fn inner_json(self) -> Cow<'a, str> {
        self.text().unwrap_or_else(|| {
            let mut json = String::from('"');
            let mut rest = self.escaped();
            while let Some(at) = rest.find('\\') {
                let is_surrogate = match rest.as_bytes()[at + 1..] {
                    [b'u', b'd' | b'D', second, ..] => {
                        matches!(second, b'8'..=b'9' | b'a'..=b'f' | b'A'..=b'F')
                    }
                    _ => false,
                };
                json.push_str(&rest[..at]);
                json.push_str(if is_surrogate { r"\\" } else { r"\" });
                // What is escaped may be a backslash, or begin a longer escape.
                json.push_str(&rest[at + 1..at + 2]);
                rest = &rest[at + 2..];
            }
            json.push_str(rest);
            json.push('"');
            let text: Result<String, _> = serde_json::from_str(&json);
            Cow::Owned(text.unwrap_or_default())
        })
    }

    /// Whether it is this text, which needs no escapes.
    pub(crate) fn is(self, text: &str) -> bool {
        self.text().is_some_and(|own| own == text)
    }
}

/// A JSON string of characters that are escaped already, in pieces.
pub(crate) fn joined<'a>(pieces: impl Iterator<Item = &'a str> + Clone) -> Box<RawValue> {
    let length: usize = pieces.clone().map(str::len).sum();
    let mut json = String::with_capacity(length + 2);
    json.push('"');
    json.extend(pieces);
    json.push('"');
    raw(json)
}

/// The JSON of a text.
pub(crate) fn encoded(text: &str) -> Box<RawValue> {
    raw(serde_json::Value::from(text).to_string())
}

fn raw(json: String) -> Box<RawValue> {
    // Both callers write valid JSON; an empty string is what remains if one ever does not.
    RawValue::from_string(json).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonString<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&'a RawValue>::deserialize(deserializer)?;
        Self::of(raw).ok_or_else(|| serde::de::Error::custom("a string is expected"))
    }
}

#[cfg(test)]
mod tests {
    use super::JsonString;

    #[test]
    fn halves_of_surrogate_pairs_stay_in_inner_json() {
        let text = |json: &str| {
            let string: JsonString<'_> = serde_json::from_str(json).expect("a string");
            string.inner_json().into_owned()
        };
        assert_eq!(
            text(r#""{\"a\": \"\ud83d\ude00\"}""#),
            "{\"a\": \"\u{1f600}\"}"
        );
        assert_eq!(
            text(r#""{\"a\": \"\ud83d\\ude00\n\"}""#),
            "{\"a\": \"\\ud83d\\ude00\n\"}"
        );
        assert_eq!(text(r#""\\ud83d \uDE00""#), "\\ud83d \\uDE00");
    }
}
