//! The names in an answer: its id, and its model.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::json_string::{JsonString, encoded};

/// The id of the server, or the other one.
pub(crate) fn id_of<'a>(own: Option<JsonString<'a>>, other: &str) -> Cow<'a, RawValue> {
    match own {
        Some(id) if !id.is_empty() => Cow::Borrowed(id.raw()),
        _ => Cow::Owned(encoded(other)),
    }
}

/// The client's name of the model, or the server's.
pub(crate) fn model_of<'a>(own: Option<JsonString<'a>>, other: Option<&str>) -> Cow<'a, RawValue> {
    match (own, other) {
        (Some(own), None) => Cow::Borrowed(own.raw()),
        (_, other) => Cow::Owned(encoded(other.unwrap_or_default())),
    }
}
