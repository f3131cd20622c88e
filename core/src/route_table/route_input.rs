//! What of a request's head routes are found by.

use std::borrow::Cow;

use crate::route::{FieldMatch, RouteMatch, TextMatch};

/// The head of a request.
#[derive(Clone, Copy, Debug)]
pub struct RouteInput<'a, H> {
    /// The host that the client asks, with or without a port; may be empty.
    pub authority: &'a str,
    /// The path, as it was sent.
    pub path: &'a str,
    /// The query without its `?`, if there is one.
    pub query: Option<&'a str>,
    /// The method in upper case.
    pub method: &'a str,
    /// The headers.
    pub headers: &'a H,
}

/// The headers of a request.
pub trait HeaderValues {
    /// The value of a header, by its name in lower case; several fields of one name are one value,
    /// joined by commas.
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>>;
}

/// A request without headers.
#[derive(Clone, Copy, Debug)]
pub struct NoHeaders;

impl HeaderValues for NoHeaders {
    fn value(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }
}

// === RouteInput ===

impl<H: HeaderValues> RouteInput<'_, H> {
    /// Whether all of a match holds but its path.
    pub(super) fn fulfils(&self, wanted: &RouteMatch) -> bool {
        let RouteMatch {
            path: _,
            method,
            headers,
            query,
        } = wanted;
        let header = |field: &FieldMatch| {
            let value = self.headers.value(&field.name);
            value.is_some_and(|value| field.value.matches(&value))
        };
        method
            .as_ref()
            .is_none_or(|method| **method == *self.method)
            && headers.iter().all(header)
            && query.iter().all(|field| self.has_parameter(field))
    }

    /// Whether the first parameter of this name has this value; of parameters, escapes are decoded.
    fn has_parameter(&self, field: &FieldMatch) -> bool {
        let query = self.query.unwrap_or_default();
        let mut parameters = query.split('&').map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (name.as_bytes(), value.as_bytes())
        });
        let named = parameters.find(|(name, _)| decoded(name).eq(field.name.bytes()));
        let Some((_, value)) = named else {
            return false;
        };
        match &field.value {
            TextMatch::Exact(wanted) => decoded(value).eq(wanted.bytes()),
            TextMatch::Pattern(pattern) if value.contains(&b'%') => {
                pattern.matches(&decoded(value).collect::<Vec<u8>>())
            }
            TextMatch::Pattern(pattern) => pattern.matches(value),
        }
    }
}

/// The bytes with their escapes decoded; one that is malformed is taken as it is.
fn decoded(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let digit = |at: usize| char::from(*rest.get(at)?).to_digit(16);
        let (byte, width) = match (*rest.first()?, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => ((high << 4 | low) as u8, 3),
            (byte, ..) => (byte, 1),
        };
        rest = &rest[width..];
        Some(byte)
    })
}
