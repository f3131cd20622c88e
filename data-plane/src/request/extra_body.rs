//! Bodies on paths that the operator added.
//!
//! Such a path may carry anything. What names a model is routed by it: a JSON object, as on the
//! known paths, and a form (`multipart/form-data`, RFC 7578) with a field `model`, as audio is
//! sent. JSON is recognized by its first byte, because engines that read a body as JSON often do
//! not look at its type.

use std::{borrow::Cow, ops::Range};

use http::{HeaderMap, HeaderValue, header};
use memchr::memmem;

/// Longest name of a model that is read from a form, in bytes.
const MAX_MODEL: usize = 256;

/// Longest head of one field of a form, in bytes.
const MAX_FIELD_HEAD: usize = 4 << 10;

/// What a body is read as.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ExtraBody {
    /// A JSON object. If it is declared as one, or begins as one, it has to be valid: engines read
    /// more than the proxy can, and what it cannot read may hide control fields.
    Object { is_strict: bool },
    /// A form, with its boundary.
    Form { boundary: String },
    /// It is only forwarded.
    Opaque,
}

impl ExtraBody {
    /// By the headers of the request and the beginning of its body.
    pub(crate) fn of<'a>(headers: &HeaderMap, beginning: impl Iterator<Item = &'a u8>) -> Self {
        if headers.contains_key(header::CONTENT_ENCODING) {
            return Self::Opaque;
        }
        let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let kind = String::from_utf8_lossy(kind.unwrap_or_default());
        let essence = kind.split(';').next().unwrap_or_default();
        let essence = essence.trim().to_ascii_lowercase();
        if essence == "multipart/form-data" {
            let boundary = parameter(&kind, "boundary").filter(|text| !text.is_empty());
            return boundary.map_or(Self::Opaque, |boundary| Self::Form {
                boundary: boundary.into_owned(),
            });
        }
        // Engines detect UTF-16 and UTF-32, with and without a byte order mark.
        let is_mark = |byte: u8| matches!(byte, 0 | 0xef | 0xbb | 0xbf | 0xfe | 0xff);
        let mut text = beginning.filter(|byte| !byte.is_ascii_whitespace() && !is_mark(**byte));
        if text.next() != Some(&b'{') {
            return Self::Opaque;
        }
        let is_declared = essence == "application/json" || essence.ends_with("+json");
        let is_strict = is_declared || matches!(text.next(), Some(b'"' | b'}'));
        Self::Object { is_strict }
    }
}

/// Where a form has the value of its field `model`, if that can be a name.
pub(crate) fn model_of_form(boundary: &str, body: &[u8]) -> Option<Range<usize>> {
    let delimiter = format!("--{boundary}");
    let found = memmem::find_iter(body, delimiter.as_bytes());
    // A delimiter is at the beginning of a line.
    let is_line = |at: &usize| *at == 0 || body[..*at].ends_with(b"\r\n");
    let starts: Vec<usize> = found.filter(is_line).take(MAX_FIELDS).collect();
    starts.windows(2).find_map(|pair| {
        let (start, end) = (pair[0] + delimiter.len(), pair[1] - 2);
        let field = body[start..end].strip_prefix(b"\r\n")?;
        let length = model_of_field(field)?;
        Some(end - length..end)
    })
}

/// Fields of a form that are looked at.
const MAX_FIELDS: usize = 64;

/// The length of the value of a field, which is given with its head, if it is the model.
fn model_of_field(field: &[u8]) -> Option<usize> {
    let head = &field[..field.len().min(MAX_FIELD_HEAD)];
    let end = memmem::find(head, b"\r\n\r\n")?;
    let value = &field[end + 4..];
    let lines = str::from_utf8(&head[..end]).ok()?.split("\r\n");
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    let (_, disposition) =
        fields.find(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"))?;
    let is_model = parameter(disposition, "name").is_some_and(|name| name == "model");
    if !is_model || value.is_empty() || value.len() > MAX_MODEL {
        return None;
    }
    str::from_utf8(value).ok().map(str::len)
}

/// A parameter of a header's value: `kind; name=value; name="quoted value"`.
fn parameter<'a>(value: &'a str, wanted: &str) -> Option<Cow<'a, str>> {
    let (_, mut rest) = value.split_once(';')?;
    loop {
        let (name, after) = rest.split_once('=')?;
        let (text, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted_text(quoted)?,
            None => {
                let (text, after) = after.split_once(';').unwrap_or((after, ""));
                (Cow::Borrowed(text.trim()), after)
            }
        };
        let name = name.trim_matches(|c: char| c == ';' || c.is_whitespace());
        if name.eq_ignore_ascii_case(wanted) {
            return Some(text);
        }
        rest = after;
    }
}

/// A quoted text up to its closing quote, and what follows it.
fn quoted_text(quoted: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut is_escaped = false;
    let end = quoted.find(|c| {
        let ends = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    })?;
    let (text, after) = (&quoted[..end], &quoted[end + 1..]);
    if !text.contains('\\') {
        return Some((Cow::Borrowed(text), after));
    }
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' {
            characters.next()
        } else {
            Some(character)
        });
    }
    Some((Cow::Owned(plain), after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(kind: Option<&'static str>, body: &str) -> ExtraBody {
        let kind = kind.map(|kind| (header::CONTENT_TYPE, HeaderValue::from_static(kind)));
        ExtraBody::of(&kind.into_iter().collect(), body.as_bytes().iter())
    }

    #[test]
    fn a_body_is_read_by_its_type_or_by_its_beginning() {
        let object = |is_strict| ExtraBody::Object { is_strict };
        assert_eq!(
            of(Some("application/json; charset=utf-8"), " {"),
            object(true)
        );
        assert_eq!(of(Some("application/problem+json"), "{x"), object(true));
        assert_eq!(of(None, "{\"model\":1}"), object(true));
        assert_eq!(of(Some("text/plain"), "\n{ \n}"), object(true));
        assert_eq!(of(None, "\u{feff}{\"a\":1}"), object(true));
        assert_eq!(of(None, "\0{\0\"\0a"), object(true));
        assert_eq!(of(Some("text/plain"), "{% if x %}"), object(false));
        assert_eq!(of(Some("application/json"), "[1]"), ExtraBody::Opaque);
        assert_eq!(
            of(Some("application/octet-stream"), "x{"),
            ExtraBody::Opaque
        );
        assert_eq!(of(None, ""), ExtraBody::Opaque);
        let form = |boundary: &str| ExtraBody::Form {
            boundary: boundary.to_owned(),
        };
        assert_eq!(
            of(Some("multipart/form-data; boundary=x-1"), "{"),
            form("x-1")
        );
        assert_eq!(
            of(
                Some("Multipart/Form-Data; charset=utf-8; BOUNDARY=\"a;b\\\"c\""),
                ""
            ),
            form("a;b\"c")
        );
        assert_eq!(of(Some("multipart/form-data"), ""), ExtraBody::Opaque);
    }

    /// A form of these heads and values.
    fn form(fields: &[(&str, &str)]) -> String {
        let fields = fields.iter();
        let fields = fields.map(|(head, value)| format!("--b\r\n{head}\r\n\r\n{value}\r\n"));
        format!("{}--b--\r\n", fields.collect::<String>())
    }

    fn model(fields: &[(&str, &str)]) -> Option<String> {
        let form = form(fields);
        let model = model_of_form("b", form.as_bytes())?;
        Some(form[model].to_owned())
    }

    #[test]
    fn the_model_is_the_field_of_that_name() {
        let file = (
            "content-disposition: form-data; name=\"file\"; filename=\"a; name=model.wav\"\r\ncontent-type: audio/wav",
            "RIFF--b not a delimiter\r\n-- nor this",
        );
        let named = ("Content-Disposition: form-data; name=\"model\"", "whisper");
        assert_eq!(model(&[file, named]).as_deref(), Some("whisper"));
        assert_eq!(model(&[named, file]).as_deref(), Some("whisper"));
        assert_eq!(model(&[file]), None);
        let unquoted = ("content-disposition:form-data;name=model", "w");
        assert_eq!(model(&[file, unquoted]).as_deref(), Some("w"));
        let other = ("content-disposition: form-data; name=\"model_name\"", "w");
        assert_eq!(model(&[other]), None);
        let long = "x".repeat(MAX_MODEL + 1);
        assert_eq!(
            model(&[("content-disposition: form-data; name=\"model\"", &long)]),
            None
        );
    }

    #[test]
    fn a_value_that_looks_like_a_field_is_none() {
        let text = "a\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nevil";
        let prompt = ("content-disposition: form-data; name=\"prompt\"", text);
        assert_eq!(model(&[prompt]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            body in proptest::collection::vec(prop_oneof![Just(b'-'), Just(b'b'), Just(b'\r'), Just(b'\n'), Just(b'"'), Just(b'='), any::<u8>()], 0..200),
            kind in ".{0,60}",
        ) {
            let _ = model_of_form("b", &body);
            let _ = parameter(&kind, "boundary");
        }

        #[test]
        fn a_model_is_found_wherever_it_is(
            name in "[a-zA-Z0-9/._-]{1,64}",
            before in proptest::collection::vec("[a-z \r\n:;=\"]{0,40}", 0..4),
            after in proptest::collection::vec("[a-z \r\n:;=\"]{0,40}", 0..4),
        ) {
            let other = "content-disposition: form-data; name=\"x\"";
            let named = "content-disposition: form-data; name=\"model\"";
            let mut fields: Vec<(&str, &str)> = before.iter().map(|value| (other, &**value)).collect();
            fields.push((named, &name));
            fields.extend(after.iter().map(|value| (other, &**value)));
            prop_assert_eq!(model(&fields), Some(name));
        }
    }
}
