//! JSON schemas, and other objects that are passed on in the order of their members.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::{
    json_string::JsonString, object_members::ObjectMembers, place::FieldPlace,
    untranslatable_request::UntranslatableRequest,
};

/// The schema with a description, unless it has one of its own that is another.
pub(crate) fn described<'a>(
    schema: &'a RawValue,
    description: Option<JsonString<'a>>,
    place: &FieldPlace<'_>,
) -> Result<Cow<'a, RawValue>, UntranslatableRequest> {
    let mut members = ObjectMembers::of(schema, place)?;
    let Some(description) = description else {
        return Ok(Cow::Borrowed(schema));
    };
    match members.take("description").and_then(JsonString::of) {
        Some(own) if own.text() != description.text() => {
            Err(members.refusal("description", "must be the description of the format"))
        }
        Some(_) => Ok(Cow::Borrowed(schema)),
        None => Ok(with_member(schema, "description", description.raw().get())),
    }
}

/// The schema of a tool's input. One without a type is an object's.
pub(crate) fn of_input<'a>(
    schema: Option<&'a RawValue>,
    place: &FieldPlace<'_>,
) -> Result<Cow<'a, RawValue>, UntranslatableRequest> {
    let Some(schema) = schema else {
        return Ok(Cow::Owned(json(
            r#"{"type":"object","properties":{}}"#.to_owned(),
        )));
    };
    let mut members = ObjectMembers::of(schema, place)?;
    match members.take("type") {
        Some(_) => Ok(Cow::Borrowed(schema)),
        None => Ok(with_member(schema, "type", r#""object""#)),
    }
}

/// `{"type": kind}`.
pub(crate) fn typed(kind: &str) -> Box<RawValue> {
    json(format!(r#"{{"type":"{kind}"}}"#))
}

/// Whether it is an object without members.
pub(crate) fn is_empty(object: &RawValue) -> bool {
    let inner = object.get().strip_prefix('{');
    inner.is_some_and(|inner| inner.trim_start() == "}")
}

/// The object with another member behind the others. Of a name that appears twice, the last counts.
fn with_member<'a>(object: &RawValue, name: &str, value: &str) -> Cow<'a, RawValue> {
    let comma = if is_empty(object) { "" } else { "," };
    let own = object.get().strip_suffix('}').unwrap_or_default();
    Cow::Owned(json(format!(r#"{own}{comma}"{name}":{value}}}"#)))
}

fn json(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The object that is written in a text. An empty text and `null`, which some models write, are one
/// without members. `None` if it is none.
pub(crate) fn object_of_text(text: &str) -> Option<Box<RawValue>> {
    let text = text.trim();
    if text.is_empty() || text == "null" {
        return Some(json("{}".to_owned()));
    }
    if !text.starts_with('{') {
        return None;
    }
    RawValue::from_string(text.to_owned()).ok()
}
