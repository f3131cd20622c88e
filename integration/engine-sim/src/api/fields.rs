//! The fields of a request body, read one by one, with errors in the words of vLLM's validation
//! (pydantic).
//!
//! A body is parsed once into borrowed raw values; only fields that the simulator looks at are
//! parsed further. As in Python's parser, the last of several equal keys wins and unknown keys are
//! ignored.

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::reply::ApiError;
use crate::journal::RecordedRequest;

/// A JSON object as its keys and untouched values.
#[derive(Debug)]
pub(crate) struct Fields<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// What a field should have been, in pydantic's words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    kind: &'static str,
    message: &'static str,
}

pub(crate) const LIST: Expected = Expected {
    kind: "list_type",
    message: "Input should be a valid list",
};
pub(crate) const STRING: Expected = Expected {
    kind: "string_type",
    message: "Input should be a valid string",
};
pub(crate) const INTEGER: Expected = Expected {
    kind: "int_type",
    message: "Input should be a valid integer",
};
pub(crate) const BOOLEAN: Expected = Expected {
    kind: "bool_type",
    message: "Input should be a valid boolean",
};
pub(crate) const OBJECT: Expected = Expected {
    kind: "model_type",
    message: "Input should be a valid dictionary or object",
};

impl<'a> Fields<'a> {
    /// Parses a body.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, ApiError> {
        let error = match serde_json::from_slice(body) {
            Ok(fields) => return Ok(fields),
            Err(error) => error,
        };
        if error.is_data() {
            let detail = "{'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a valid dictionary or object to extract fields from'}";
            return Err(ApiError::invalid(Some("body".to_owned()), detail));
        }
        let at = offset(body, &error);
        let detail = format!(
            "{{'type': 'json_invalid', 'loc': 'body.{at}', 'msg': 'JSON decode error', 'input': '<dict of 0 items>', 'ctx': {{'error': 'Expecting value'}}}}"
        );
        Err(ApiError::invalid(Some(format!("body.{at}")), detail))
    }

    /// The raw value of a field; `null` counts as absent.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().rev().find(|(key, _)| key == name)?;
        (value.get() != "null").then_some(*value)
    }

    /// A field that may be absent.
    pub(crate) fn optional<T: Deserialize<'a>>(
        &self,
        name: &str,
        expected: Expected,
    ) -> Result<Option<T>, ApiError> {
        let Some(raw) = self.raw(name) else {
            return Ok(None);
        };
        serde_json::from_str(raw.get())
            .map(Some)
            .map_err(|_| mismatch(name, expected, raw))
    }

    /// A field that must be there.
    pub(crate) fn required<T: Deserialize<'a>>(
        &self,
        name: &str,
        expected: Expected,
    ) -> Result<T, ApiError> {
        self.optional(name, expected)?
            .ok_or_else(|| self.missing(name))
    }

    /// The error for a field that is not there.
    pub(crate) fn missing(&self, name: &str) -> ApiError {
        let items = self.0.len();
        let detail = format!(
            "{{'type': 'missing', 'loc': 'body.{name}', 'msg': 'Field required', 'input': '<dict of {items} items>'}}"
        );
        ApiError::invalid(Some(format!("body.{name}")), detail)
    }

    /// A boolean that is false when absent.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self.optional(name, BOOLEAN)?.unwrap_or(false))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::with_capacity(8);
        while let Some((Key(key), value)) = map.next_entry()? {
            fields.push((key, value));
        }
        Ok(Fields(fields))
    }
}

/// A string that is borrowed where it has no escapes.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// The error for a field of the wrong type.
pub(crate) fn mismatch(name: &str, expected: Expected, raw: &RawValue) -> ApiError {
    let Expected { kind, message } = expected;
    let input = python(raw);
    let detail =
        format!("{{'type': '{kind}', 'loc': 'body.{name}', 'msg': '{message}', 'input': {input}}}");
    ApiError::invalid(Some(format!("body.{name}")), detail)
}

/// vLLM reads bodies only when they are declared to be JSON.
pub(crate) fn require_json(request: &RecordedRequest) -> Result<(), ApiError> {
    let media = request
        .header("content-type")
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    if media.is_some_and(|media| media.eq_ignore_ascii_case("application/json")) {
        Ok(())
    } else {
        Err(wrong_content_type())
    }
}

/// The error for a body that is not declared to be JSON; vLLM answers 400 here, not 415.
fn wrong_content_type() -> ApiError {
    let error = ApiError::invalid(
        None,
        "Unsupported Media Type: Only 'application/json' is allowed",
    );
    debug_assert_eq!(error.status, StatusCode::BAD_REQUEST);
    error
}

/// A value as the validation error shows it: Python's literal, large ones abridged.
fn python(raw: &RawValue) -> String {
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str(text)
            .map_or_else(|_| text.to_owned(), |text: String| format!("'{text}'")),
        Some(b'{') => serde_json::from_str(text).map_or_else(
            |_| text.to_owned(),
            |Fields(items)| format!("'<dict of {} items>'", items.len()),
        ),
        Some(b'[') => serde_json::from_str(text).map_or_else(
            |_| text.to_owned(),
            |items: Vec<&RawValue>| format!("'<list of {} items>'", items.len()),
        ),
        Some(b't') => "True".to_owned(),
        Some(b'f') => "False".to_owned(),
        _ => text.to_owned(),
    }
}

/// Where in the body the parser gave up, in bytes from its start.
fn offset(body: &[u8], error: &serde_json::Error) -> usize {
    if error.is_eof() {
        return body.len();
    }
    let before: usize = body
        .split_inclusive(|byte| *byte == b'\n')
        .take(error.line().saturating_sub(1))
        .map(<[u8]>::len)
        .sum();
    (before + error.column().saturating_sub(1)).min(body.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(body: &str) -> Fields<'_> {
        Fields::parse(body.as_bytes()).unwrap()
    }

    #[test]
    fn the_last_of_equal_keys_wins_and_null_is_absent() {
        let fields = parse(r#"{"n":1,"n":2,"stream":null}"#);
        assert_eq!(fields.optional::<i64>("n", INTEGER).unwrap(), Some(2));
        assert_eq!(fields.optional::<bool>("stream", BOOLEAN).unwrap(), None);
    }

    #[test]
    fn a_wrong_type_is_named_as_vllm_names_it() {
        let error = parse(r#"{"messages":"x"}"#)
            .required::<Vec<&RawValue>>("messages", LIST)
            .unwrap_err();
        let captured = "1 validation error:\n  {'type': 'list_type', 'loc': 'body.messages', 'msg': 'Input should be a valid list', 'input': 'x'}";
        assert_eq!(
            (error.message.as_str(), error.param.as_deref()),
            (captured, Some("body.messages"))
        );
    }

    #[test]
    fn json_that_ends_early_is_reported_at_its_end() {
        let error = Fields::parse(br#"{"model":"tiny","messages": "#).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("body.28"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_fields_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let parsed = Fields::parse(&body);
            prop_assert!(parsed.is_ok() || parsed.is_err_and(|error| error.status == StatusCode::BAD_REQUEST));
        }
    }
}
