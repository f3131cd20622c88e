//! Answers of endpoints: which class one has, decided from its head and its first bytes.
//!
//! ```text
//!   head ─▶ AnswerJudge::begin ─┬─▶ a class: any status but 2xx
//!                               └─▶ AnswerJudge ◀─ pieces of the body, until the class is known
//!                                     events: the first event that is a token, or an error
//!                                     JSON:   whether a short body is an error
//! ```
//!
//! What precedes the first token (comments, a chunk with the role alone, `response.created`) says
//! nothing of the endpoint, and has no class. A body that cannot be read (compressed, or of a path
//! that the operator added) counts as what was asked for with its first byte.

mod error_class;
pub(super) mod event_lines;
mod payload;

use std::time::{Duration, SystemTime};

use http::{HeaderMap, Method, StatusCode, header, response};

use self::event_lines::{EventLine, next_line};
use crate::{
    link::report::ReportedAnswer,
    request::{api::Api, inference_request::InferenceRequest},
    telemetry::metrics::AnswerClass,
};

/// Bytes of a JSON body that are looked through for an error. A longer one is an answer.
const JSON_LIMIT: usize = 16 << 10;

/// Bytes of a body that show whether it is a stream of events.
const SNIFFED: usize = 64;

/// Bytes of one event that are kept until it is complete. A longer one is a token.
const EVENT_LIMIT: usize = 64 << 10;

/// Finds the class of one answer by the pieces of its body.
#[derive(Debug)]
pub(super) struct AnswerJudge {
    shape: AnswerShape,
    /// What was read and is not judged: the beginning of a JSON body, or of an event.
    unread: Vec<u8>,
    /// The last byte was a carriage return, whose line feed may follow.
    after_return: bool,
    /// Lines came that belong to no event stream.
    has_garbage: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerShape {
    /// Not known yet: the first byte shows it.
    Unknown,
    Events,
    Json,
    /// Not read: any byte is what was asked for, and so is none.
    Opaque,
}

// === AnswerJudge ===

impl AnswerJudge {
    /// Begins with the head of an answer to `request`.
    ///
    /// # Errors
    ///
    /// The class, if the head determines it.
    pub(super) fn begin(
        request: &InferenceRequest,
        head: &response::Parts,
    ) -> Result<Self, AnswerClass> {
        if !head.status.is_success() {
            return Err(of_status(head.status));
        }
        Ok(Self {
            shape: shape_of(request, &head.headers),
            unread: Vec::new(),
            after_return: false,
            has_garbage: false,
        })
    }

    /// Whether bytes of the body say nothing of the class.
    pub(super) fn is_opaque(&self) -> bool {
        self.shape == AnswerShape::Opaque
    }

    /// Reads the next piece of the body. `None` while the class is not known.
    pub(super) fn piece(&mut self, bytes: &[u8]) -> Option<AnswerClass> {
        if bytes.is_empty() {
            return None;
        }
        if self.shape == AnswerShape::Unknown {
            self.shape = sniffed(bytes)?;
        }
        match self.shape {
            AnswerShape::Opaque => Some(AnswerClass::Tokens),
            AnswerShape::Json => {
                self.unread.extend_from_slice(bytes);
                (self.unread.len() > JSON_LIMIT).then(|| of_json(&self.unread))
            }
            AnswerShape::Events | AnswerShape::Unknown => self.events(bytes),
        }
    }

    /// Reads the last piece of the body. Returns its class.
    pub(super) fn last_piece(&mut self, bytes: &[u8]) -> AnswerClass {
        let shape = match self.shape {
            AnswerShape::Unknown => sniffed(bytes),
            shape => Some(shape),
        };
        if shape == Some(AnswerShape::Json) && self.unread.is_empty() {
            // Most bodies are one piece, which need not be copied.
            return of_json(bytes);
        }
        self.piece(bytes).unwrap_or_else(|| self.end())
    }

    /// The body has ended. Returns its class.
    pub(super) fn end(&mut self) -> AnswerClass {
        match self.shape {
            AnswerShape::Opaque => AnswerClass::Tokens,
            AnswerShape::Json => of_json(&self.unread),
            AnswerShape::Unknown => AnswerClass::Empty,
            AnswerShape::Events => {
                // An event without the empty line that ends it.
                let last = self.events(b"\n\n");
                last.unwrap_or(if self.has_garbage {
                    AnswerClass::NotAnAnswer
                } else {
                    AnswerClass::Empty
                })
            }
        }
    }

    fn events(&mut self, bytes: &[u8]) -> Option<AnswerClass> {
        let bytes = match bytes.strip_prefix(b"\n") {
            Some(rest) if self.after_return => rest,
            _ => bytes,
        };
        self.after_return = bytes
            .last()
            .map_or(self.after_return, |last| *last == b'\r');
        self.unread.extend_from_slice(bytes);
        let mut begin = 0;
        while let Some(length) = self.event_length(begin) {
            if let Some(class) = self.event(begin, begin + length) {
                return Some(class);
            }
            begin += length;
        }
        self.unread.drain(..begin);
        (self.unread.len() > EVENT_LIMIT).then_some(AnswerClass::Tokens)
    }

    /// Bytes of the event that begins there, its empty line included; `None` while it is
    /// incomplete.
    fn event_length(&self, begin: usize) -> Option<usize> {
        let mut at = begin;
        loop {
            let (line, consumed) = next_line(&self.unread[at..])?;
            at += consumed;
            if line.is_empty() {
                return Some(at - begin);
            }
        }
    }

    /// The class that one event gives the answer, if it does.
    fn event(&mut self, begin: usize, end: usize) -> Option<AnswerClass> {
        let mut rest = &self.unread[begin..end];
        let (mut name, mut data): (&[u8], Option<Vec<u8>>) = (b"", None);
        while let Some((line, consumed)) = next_line(rest) {
            match EventLine::parse(line) {
                EventLine::Event(value) => name = value,
                EventLine::Data(value) => match &mut data {
                    Some(data) => {
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                    None => data = Some(value.to_vec()),
                },
                EventLine::Other => {}
                EventLine::Garbage => self.has_garbage = true,
            }
            rest = &rest[consumed..];
        }
        payload::of_event(name, &data?)
    }
}

impl From<AnswerClass> for ReportedAnswer {
    fn from(class: AnswerClass) -> Self {
        match class {
            AnswerClass::Tokens => Self::Tokens,
            AnswerClass::Empty => Self::Empty,
            AnswerClass::ClientError => Self::ClientError,
            AnswerClass::EngineError => Self::EngineError,
            AnswerClass::Overloaded => Self::Overloaded,
            AnswerClass::ErrorEvent => Self::ErrorEvent,
            AnswerClass::NotAnAnswer => Self::NotAnAnswer,
        }
    }
}

/// The class of an answer by its status, which is not 2xx.
pub(super) fn of_status(status: StatusCode) -> AnswerClass {
    match status.as_u16() {
        429 | 503 => AnswerClass::Overloaded,
        400..500 => AnswerClass::ClientError,
        500.. => AnswerClass::EngineError,
        _ => AnswerClass::NotAnAnswer,
    }
}

/// How long an overloaded endpoint asks to be left alone: `Retry-After` in seconds, or as a date
/// (RFC 9110, 10.2.3). A date is compared with the answer's own `Date`, which the same clock made;
/// without one, with `now`.
pub(super) fn retry_after(
    headers: &HeaderMap,
    now: impl FnOnce() -> SystemTime,
) -> Option<Duration> {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.trim());
    let value = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = value.parse() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let dated = text(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    // One that has passed asks for nothing.
    until.duration_since(dated.unwrap_or_else(now)).ok()
}

fn shape_of(request: &InferenceRequest, headers: &HeaderMap) -> AnswerShape {
    let is_known =
        request.method == Method::POST && !matches!(request.api, Api::Extra | Api::StoredResponse);
    if !is_known || headers.contains_key(header::CONTENT_ENCODING) {
        return AnswerShape::Opaque;
    }
    if is_event_stream(headers) {
        AnswerShape::Events
    } else {
        AnswerShape::Unknown
    }
}

/// Whether the content type is that of an event stream.
pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
        const KIND: &[u8] = b"text/event-stream";
        let kind = kind.as_bytes();
        kind.len() >= KIND.len() && kind[..KIND.len()].eq_ignore_ascii_case(KIND)
    })
}

/// The shape of a body without the content type of events, by its first byte that is no space.
fn sniffed(bytes: &[u8]) -> Option<AnswerShape> {
    let text = bytes.trim_ascii_start();
    if text.is_empty() {
        return None;
    }
    // The name of a field is in it.
    let begin = &text[..text.len().min(SNIFFED)];
    let is_field = matches!(
        EventLine::parse(begin.split(|byte| matches!(byte, b'\r' | b'\n')).next()?),
        EventLine::Data(_) | EventLine::Event(_)
    );
    Some(if is_field {
        AnswerShape::Events
    } else {
        AnswerShape::Json
    })
}

/// The class of a body of JSON, or of so much of it that it is no error.
fn of_json(text: &[u8]) -> AnswerClass {
    if text.len() > JSON_LIMIT {
        begins_as_json(text)
    } else if text.trim_ascii().is_empty() {
        AnswerClass::Empty
    } else {
        payload::of_body(text)
    }
}

/// The class of a body that is too long for an error.
fn begins_as_json(text: &[u8]) -> AnswerClass {
    match text.trim_ascii_start().first() {
        Some(b'{' | b'[' | b'"') => AnswerClass::Tokens,
        _ => AnswerClass::NotAnAnswer,
    }
}

/// The class of a whole answer, for tests of its parts.
#[cfg(test)]
fn class_of(shape: AnswerShape, pieces: &[bytes::Bytes]) -> AnswerClass {
    let mut judge = AnswerJudge {
        shape,
        unread: Vec::new(),
        after_return: false,
        has_garbage: false,
    };
    let mut known = pieces.iter().filter_map(|piece| judge.piece(piece));
    let first = known.next();
    first.unwrap_or_else(|| judge.end())
}

#[cfg(test)]
mod tests;
