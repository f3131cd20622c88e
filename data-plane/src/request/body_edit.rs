//! Edits of a JSON body as splices: every byte that is not edited stays as the client wrote it.
//!
//! Only the top level of the object is edited. White space around its braces, and around fields
//! that are cut out, is not kept.

use std::{borrow::Cow, fmt, ops::Range};

use bytes::Bytes;
use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::request::{
    fields::{FieldName, UnreadableBody},
    leg_body::LegBody,
};

/// One edit of the top-level fields of a body.
#[derive(Clone, Debug)]
pub(crate) enum BodyEdit {
    /// Every field of this name is cut out.
    Remove(&'static str),
    /// There is one field of this name, with this value: where the body has the name first, else at
    /// its end.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "the legs of one endpoint only remove fields")
    )]
    Set(&'static str, Box<RawValue>),
}

/// The body with these edits: slices of `body`, and the new values. Of two edits of a name the last
/// counts. When no edit changes anything, it is `body` itself.
///
/// # Errors
///
/// When there are edits, and `body` is no JSON object.
pub(crate) fn edited(body: &Bytes, edits: &[BodyEdit]) -> Result<LegBody, UnreadableBody> {
    if edits.is_empty() {
        return Ok(LegBody::from(body.clone()));
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let fields = json.deserialize_map(FieldSpans(body))?;
    json.end()?;
    let mut wanted = last_by_name(edits);
    let mut splices = BodySplices::default();
    for field in fields {
        match wanted.iter_mut().find(|wanted| wanted.name == field.name) {
            None => splices.keep(field.whole),
            Some(wanted) => match wanted.value.take() {
                Some(value) => splices.replace(&field, value),
                None => splices.cut(),
            },
        }
    }
    for WantedField { name, value } in wanted {
        if let Some(value) = value {
            splices.append(name, value);
        }
    }
    Ok(splices.apply(body))
}

/// What a field is to be.
struct WantedField<'a> {
    name: &'static str,
    /// `None`: not there, or not there again.
    value: Option<&'a str>,
}

fn last_by_name(edits: &[BodyEdit]) -> Vec<WantedField<'_>> {
    let mut wanted: Vec<WantedField<'_>> = Vec::with_capacity(edits.len());
    for edit in edits {
        let (name, value) = match edit {
            BodyEdit::Remove(name) => (*name, None),
            BodyEdit::Set(name, value) => (*name, Some(value.get())),
        };
        wanted.retain(|earlier| earlier.name != name);
        wanted.push(WantedField { name, value });
    }
    wanted
}

// === BodySplices ===

/// The pieces of an edited object, without its braces.
#[derive(Default)]
struct BodySplices {
    pieces: Vec<SplicedPiece>,
    /// The end of the last field that was kept or replaced, if no field was cut after it.
    follows: Option<usize>,
    is_changed: bool,
}

enum SplicedPiece {
    /// Bytes of the client.
    Kept(Range<usize>),
    Made(Bytes),
}

impl BodySplices {
    /// The next field stays, `whole`.
    fn keep(&mut self, whole: Range<usize>) {
        let begin = self.separate(whole.start);
        self.kept(begin..whole.end);
        self.follows = Some(whole.end);
    }

    /// The next field gets another value.
    fn replace(&mut self, field: &FieldSpan<'_>, value: &str) {
        self.is_changed = true;
        let begin = self.separate(field.whole.start);
        self.kept(begin..field.value_start);
        self.made(value);
        self.follows = Some(field.whole.end);
    }

    /// The next field is left out.
    fn cut(&mut self) {
        self.is_changed = true;
        self.follows = None;
    }

    /// A field after all others.
    fn append(&mut self, name: &str, value: &str) {
        self.is_changed = true;
        let comma = if self.pieces.is_empty() { "" } else { "," };
        let name = serde_json::Value::from(name);
        self.made(&format!("{comma}{name}:{value}"));
    }

    /// Where the bytes of the next field begin that stay: with the client's separator, if the field
    /// before it stayed too.
    fn separate(&mut self, field: usize) -> usize {
        if let Some(end) = self.follows {
            return end;
        }
        if !self.pieces.is_empty() {
            self.made(",");
        }
        field
    }

    fn kept(&mut self, range: Range<usize>) {
        match self.pieces.last_mut() {
            Some(SplicedPiece::Kept(last)) if last.end == range.start => last.end = range.end,
            _ => self.pieces.push(SplicedPiece::Kept(range)),
        }
    }

    fn made(&mut self, text: &str) {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.pieces.push(SplicedPiece::Made(bytes));
    }

    fn apply(self, body: &Bytes) -> LegBody {
        if !self.is_changed {
            return LegBody::from(body.clone());
        }
        let mut bytes = Vec::with_capacity(self.pieces.len() + 2);
        bytes.push(Bytes::from_static(b"{"));
        bytes.extend(self.pieces.into_iter().map(|piece| match piece {
            SplicedPiece::Kept(range) => body.slice(range),
            SplicedPiece::Made(made) => made,
        }));
        bytes.push(Bytes::from_static(b"}"));
        LegBody::from(bytes)
    }
}

// === FieldSpan ===

/// The position of one `"name": value` in the body.
struct FieldSpan<'a> {
    name: Cow<'a, str>,
    whole: Range<usize>,
    value_start: usize,
}

struct FieldSpans<'a>(&'a [u8]);

impl<'de> Visitor<'de> for FieldSpans<'de> {
    type Value = Vec<FieldSpan<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<FieldSpan<'de>>, A::Error> {
        let body = self.0;
        let mut fields: Vec<FieldSpan<'de>> = Vec::new();
        while let Some((FieldName(name), value)) =
            map.next_entry::<FieldName<'de>, &'de RawValue>()?
        {
            // The name begins after what separates it from the field before it: `{` or `,`, and
            // white space.
            let after = fields.last().map_or(0, |last| last.whole.end);
            let gap = body[after..]
                .iter()
                .position(|&byte| byte == b'"')
                .unwrap_or(0);
            let value_start = value.get().as_ptr() as usize - body.as_ptr() as usize;
            fields.push(FieldSpan {
                name,
                whole: after + gap..value_start + value.get().len(),
                value_start,
            });
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests;
