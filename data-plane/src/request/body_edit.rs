//! Edits of a JSON body as splices: every byte that is not edited stays as the client wrote it.
//!
//! Only the top level of the object is edited. White space around its braces, and around fields
//! that are cut out, is not kept.

mod field_positions;

use bytes::{Bytes, BytesMut};

pub(crate) use self::field_positions::FieldPositions;
use super::{
    leg_body::LegBody,
    object_scanner::{MalformedObject, ScannedField},
    request_body::{BodySpan, RequestBody},
};

/// Pieces of an edited body that are not joined, at most. A body of very many fields would become
/// as many pieces, which take a multiple of its size.
const MAX_PIECES: usize = 64;

/// One edit of the top-level fields of a body. Values are JSON.
#[derive(Clone, Debug)]
pub(crate) enum BodyEdit {
    /// Every field of this name is cut out.
    Remove(&'static str),
    /// There is one field of this name, with this value: where the body has the name first, else at
    /// its end.
    Set(&'static str, Bytes),
    /// Every field of this name gets this value; there is none where there was none.
    Replace(&'static str, Bytes),
}

impl BodyEdit {
    /// [`Self::Set`] with this JSON.
    pub(crate) fn set(name: &'static str, json: impl Into<Bytes>) -> Self {
        Self::Set(name, json.into())
    }

    /// [`Self::Replace`] with this JSON.
    pub(crate) fn replace(name: &'static str, json: impl Into<Bytes>) -> Self {
        Self::Replace(name, json.into())
    }
}

/// The body with these edits: slices of `body`, and the new values. Of two edits of a name the last
/// counts. When no edit changes anything, it is `body` itself. `positions` are those of its fields.
///
/// # Errors
///
/// When there are edits, and `body` is no JSON object.
pub(crate) fn edited(
    (body, positions): (&RequestBody, &FieldPositions),
    edits: &[BodyEdit],
) -> Result<LegBody, MalformedObject> {
    if edits.is_empty() {
        return Ok(LegBody::from(body));
    }
    let mut wanted = last_by_name(edits);
    let mut splices = BodySplices::of(body);
    positions.each(body, |field| {
        let is_named = |wanted: &&mut WantedField<'_>| wanted.name.as_bytes() == field.name;
        match wanted.iter_mut().find(is_named) {
            None => splices.keep(&field),
            Some(WantedField {
                value: Some(value),
                may_add: false,
                ..
            }) => splices.replace(&field, value),
            Some(wanted) => match wanted.value.take() {
                Some(value) => splices.replace(&field, value),
                None => splices.cut(),
            },
        }
    })?;
    for WantedField {
        name,
        value,
        may_add,
    } in wanted
    {
        if let Some(value) = value.filter(|_| may_add) {
            splices.append(name, value);
        }
    }
    Ok(splices.apply())
}

/// What a field is to be.
struct WantedField<'a> {
    name: &'static str,
    /// `None`: not there, or not there again.
    value: Option<&'a Bytes>,
    /// It is to be there if it was not.
    may_add: bool,
}

fn last_by_name(edits: &[BodyEdit]) -> Vec<WantedField<'_>> {
    let mut wanted: Vec<WantedField<'_>> = Vec::with_capacity(edits.len());
    for edit in edits {
        let (name, value, may_add) = match edit {
            BodyEdit::Remove(name) => (*name, None, false),
            BodyEdit::Set(name, value) => (*name, Some(value), true),
            BodyEdit::Replace(name, value) => (*name, Some(value), false),
        };
        wanted.retain(|earlier| earlier.name != name);
        wanted.push(WantedField {
            name,
            value,
            may_add,
        });
    }
    wanted
}

// === BodySplices ===

/// The pieces of an edited object, without its braces.
struct BodySplices<'a> {
    body: &'a RequestBody,
    /// The first pieces, once there were [`MAX_PIECES`] of them.
    joined: BytesMut,
    pieces: Vec<SplicedPiece>,
    has_fields: bool,
    /// The end of the last field that was kept or replaced, if no field was cut after it.
    follows: Option<usize>,
    is_changed: bool,
}

enum SplicedPiece {
    /// Bytes of the client.
    Kept(BodySpan),
    Made(Bytes),
}

impl<'a> BodySplices<'a> {
    fn of(body: &'a RequestBody) -> Self {
        Self {
            body,
            joined: BytesMut::new(),
            pieces: Vec::new(),
            has_fields: false,
            follows: None,
            is_changed: false,
        }
    }

    /// The next field stays.
    fn keep(&mut self, field: &ScannedField<'_>) {
        let start = self.separate(field.start);
        let end = field.value.end;
        self.kept(BodySpan { start, end });
        self.follows = Some(end);
    }

    /// The next field gets another value.
    fn replace(&mut self, field: &ScannedField<'_>, value: &Bytes) {
        self.is_changed = true;
        let start = self.separate(field.start);
        let end = field.value.start;
        self.kept(BodySpan { start, end });
        self.made(value.clone());
        self.follows = Some(field.value.end);
    }

    /// The next field is left out.
    fn cut(&mut self) {
        self.is_changed = true;
        self.follows = None;
    }

    /// A field after all others.
    fn append(&mut self, name: &str, value: &Bytes) {
        self.is_changed = true;
        self.follows = None;
        self.separate(0);
        let name = serde_json::Value::from(name);
        self.made(Bytes::from(format!("{name}:")));
        self.made(value.clone());
    }

    /// Where the bytes of the next field begin that stay: with the client's separator, if the field
    /// before it stayed too.
    fn separate(&mut self, field: usize) -> usize {
        let follows_any = std::mem::replace(&mut self.has_fields, true);
        if let Some(end) = self.follows {
            return end;
        }
        if follows_any {
            self.made(Bytes::from_static(b","));
        }
        field
    }

    fn kept(&mut self, span: BodySpan) {
        match self.pieces.last_mut() {
            Some(SplicedPiece::Kept(last)) if last.end == span.start => last.end = span.end,
            _ => self.push(SplicedPiece::Kept(span)),
        }
    }

    fn made(&mut self, bytes: Bytes) {
        self.push(SplicedPiece::Made(bytes));
    }

    fn push(&mut self, piece: SplicedPiece) {
        if self.pieces.len() == MAX_PIECES {
            for piece in self.pieces.drain(..) {
                match piece {
                    SplicedPiece::Kept(span) => {
                        let slices = self.body.slices(span);
                        slices.for_each(|slice| self.joined.extend_from_slice(slice));
                    }
                    SplicedPiece::Made(made) => self.joined.extend_from_slice(&made),
                }
            }
        }
        self.pieces.push(piece);
    }

    fn apply(self) -> LegBody {
        if !self.is_changed {
            return LegBody::from(self.body);
        }
        let mut bytes = vec![Bytes::from_static(b"{"), self.joined.freeze()];
        for piece in self.pieces {
            match piece {
                SplicedPiece::Kept(span) => bytes.extend(self.body.shared(span)),
                SplicedPiece::Made(made) => bytes.push(made),
            }
        }
        bytes.push(Bytes::from_static(b"}"));
        LegBody::from(bytes)
    }
}

#[cfg(test)]
mod tests;
