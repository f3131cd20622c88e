//! The client's name of a model, put back into the answer to a request that was rewritten.
//!
//! ```text
//!   piece ─▶ frames: one document, or the data of events ─▶ ModelField: where the value is ─▶ splice
//! ```
//!
//! Only a member of the answer's JSON is replaced, never a part of a text: the `model` of a
//! document or of an event, and that of the object in which an API's streams have it. What it was
//! before does not matter. An engine's errors that name a model in a message stay as they are.
//!
//! Invariants: nothing is held back, so that every piece is passed on at once; the pieces of an
//! answer may be cut anywhere; a piece without a value to replace is passed on as it is, without a
//! copy; memory is constant.

mod model_field;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use memchr::memchr2;
use smallvec::SmallVec;

use self::model_field::ModelField;
use super::answer::is_event_stream;
use crate::request::api::Api;

/// Edits one answer.
#[derive(Debug)]
pub(crate) struct ModelRestorer {
    /// The client's name, as JSON.
    name: Box<str>,
    frames: AnswerFrames,
    field: ModelField,
}

/// What the next byte of an answer is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerFrames {
    /// The first byte that is no space shows it. Spaces may have passed before a document.
    Unknown { after_space: bool },
    /// One JSON document.
    Document,
    /// A line of an event stream, of which `matched` bytes of [`DATA`] have passed. The line before
    /// it may have ended with a carriage return, whose line feed is no line.
    LineStart { matched: u8, after_return: bool },
    /// What follows [`DATA`].
    Data,
    /// A line of another field.
    OtherLine,
    /// Nothing is edited.
    Opaque,
}

/// The field of an event that holds its document, which may have several lines of it.
const DATA: &[u8] = b"data:";

/// A part of a piece that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ValueCut {
    start: usize,
    end: usize,
    /// The value begins here: the new one takes its place.
    is_beginning: bool,
}

type ValueCuts = SmallVec<[ValueCut; 4]>;

impl ModelRestorer {
    /// For an answer with these headers to a request that named `model`. `None` if nothing of it
    /// can be edited: it is compressed, or neither JSON nor events.
    pub(crate) fn of(api: Api, model: &str, headers: &HeaderMap) -> Option<Self> {
        let frames = frames_of(headers)?;
        Some(Self {
            name: serde_json::Value::from(model).to_string().into(),
            frames,
            field: ModelField::inside(match api {
                Api::Responses => Some(b"response"),
                Api::Messages => Some(b"message"),
                _ => None,
            }),
        })
    }

    /// The next piece, with the client's name.
    pub(crate) fn restore(&mut self, piece: Bytes) -> Bytes {
        if self.frames == AnswerFrames::Opaque {
            return piece;
        }
        let mut cuts = ValueCuts::new();
        self.find(&piece, &mut cuts);
        if cuts.is_empty() {
            return piece;
        }
        let mut edited = BytesMut::with_capacity(piece.len() + cuts.len() * self.name.len());
        let mut kept = 0;
        for cut in cuts {
            edited.extend_from_slice(&piece[kept..cut.start]);
            if cut.is_beginning {
                edited.extend_from_slice(self.name.as_bytes());
            }
            kept = cut.end;
        }
        edited.extend_from_slice(&piece[kept..]);
        edited.freeze()
    }

    /// Finds what of the piece is replaced.
    fn find(&mut self, piece: &[u8], cuts: &mut ValueCuts) {
        if let AnswerFrames::Unknown { after_space } = self.frames {
            let text = piece.trim_ascii_start();
            let after_space = after_space || text.len() < piece.len();
            self.frames = match text {
                [] => AnswerFrames::Unknown { after_space },
                [b'{', ..] => AnswerFrames::Document,
                _ if after_space => AnswerFrames::Opaque,
                _ => AnswerFrames::FIRST_LINE,
            };
        }
        match self.frames {
            AnswerFrames::Unknown { .. } | AnswerFrames::Opaque => {}
            AnswerFrames::Document => {
                self.field.scan(piece, 0, cuts);
                if self.field.is_settled() {
                    self.frames = AnswerFrames::Opaque;
                }
            }
            AnswerFrames::LineStart { .. } | AnswerFrames::Data | AnswerFrames::OtherLine => {
                self.find_in_events(piece, cuts);
            }
        }
    }

    fn find_in_events(&mut self, piece: &[u8], cuts: &mut ValueCuts) {
        let mut at = 0;
        while let Some(&byte) = piece.get(at) {
            if let AnswerFrames::LineStart {
                matched,
                after_return,
            } = self.frames
            {
                let is_second = after_return && byte == b'\n';
                if !matches!(byte, b'\r' | b'\n') {
                    self.frames = AnswerFrames::begun(matched, byte);
                } else {
                    if matched == 0 && !is_second {
                        // An empty line ends an event.
                        self.field.restart();
                    }
                    self.frames = AnswerFrames::after(byte);
                }
                at += 1;
                continue;
            }
            let line = &piece[at..];
            let length = memchr2(b'\r', b'\n', line).unwrap_or(line.len());
            if self.frames == AnswerFrames::Data {
                self.field.scan(&line[..length], at, cuts);
            }
            at += length;
            if let Some(&end) = piece.get(at) {
                self.frames = AnswerFrames::after(end);
                at += 1;
            }
        }
    }
}

impl AnswerFrames {
    const FIRST_LINE: Self = Self::LineStart {
        matched: 0,
        after_return: false,
    };

    /// Behind the end of a line.
    const fn after(end: u8) -> Self {
        Self::LineStart {
            matched: 0,
            after_return: end == b'\r',
        }
    }

    /// Behind a byte of the beginning of a line, of which `matched` bytes of [`DATA`] have passed
    /// before.
    fn begun(matched: u8, byte: u8) -> Self {
        let next = usize::from(matched) + 1;
        if DATA[next - 1] != byte {
            Self::OtherLine
        } else if next == DATA.len() {
            Self::Data
        } else {
            Self::LineStart {
                matched: matched + 1,
                after_return: false,
            }
        }
    }
}

/// How an answer with these headers begins; `None` if it is neither JSON nor events, or is
/// compressed.
fn frames_of(headers: &HeaderMap) -> Option<AnswerFrames> {
    if headers.contains_key(header::CONTENT_ENCODING) {
        return None;
    }
    if is_event_stream(headers) {
        return Some(AnswerFrames::FIRST_LINE);
    }
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    // `application/json`, and types that end with `+json`; an engine may state none.
    let is_json = |kind: &[u8]| {
        let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default();
        let essence = essence.trim_ascii().to_ascii_lowercase();
        essence.ends_with(b"/json") || essence.ends_with(b"+json")
    };
    kind.is_none_or(is_json)
        .then_some(AnswerFrames::Unknown { after_space: false })
}

#[cfg(test)]
mod tests;
