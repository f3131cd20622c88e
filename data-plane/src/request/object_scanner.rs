//! Finds the top-level fields of a JSON object while its bytes arrive, in pieces cut anywhere.
//!
//! Names of fields are decoded, values are only delimited: inside a string the scanner looks for
//! its end, inside an array or object for the brackets that belong together. So it follows every
//! valid object and reports what a parser would; of a value that is not valid JSON, the engine is
//! the judge. What it cannot follow it refuses, with the position.
//!
//! Invariants: constant memory, whatever arrives; bytes are looked at once, numbers in arrays
//! perhaps twice; outside strings
//! only the characters of JSON pass, so that no comment and no other kind of quote can hide a
//! field.

mod field_name;

use memchr::memchr2;

use self::field_name::FieldName;
use super::request_body::BodySpan;

/// Arrays and objects inside each other at most. Parsers in engines end at 200 (jiter) to 1,024
/// (orjson).
const MAX_DEPTH: usize = 1_024;

/// Scans one object. The default expects its beginning.
#[derive(Clone, Debug, Default)]
pub(crate) struct ObjectScanner {
    state: ScanState,
    /// Length of the pieces before this one.
    scanned: usize,
    name: FieldName,
    name_start: usize,
    value_start: usize,
    value_first: u8,
    open: OpenBrackets,
}

/// A top-level field. Positions are those in all pieces together.
pub(crate) struct ScannedField<'a> {
    /// Decoded. Of a name that is longer than any name that is looked for, nothing.
    pub(crate) name: &'a [u8],
    /// Of the quote that begins the name.
    pub(crate) start: usize,
    pub(crate) value: BodySpan,
    /// The value's first byte, which determines its type.
    pub(crate) first: u8,
}

/// Why a body is not scanned further. It repeats no byte of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MalformedObject {
    #[error("expected {expected} at byte {at}")]
    Unexpected { expected: &'static str, at: usize },
    #[error("it ends at byte {at}, where {expected} was expected")]
    Incomplete { expected: &'static str, at: usize },
    #[error("more than {MAX_DEPTH} levels of arrays and objects at byte {at}")]
    TooDeep { at: usize },
}

/// What the next byte is part of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ScanState {
    /// Nothing, a byte-order mark, or white space before the object.
    #[default]
    Start,
    FirstField,
    NextField,
    Name,
    Colon,
    Value,
    /// A string: a value, or inside one.
    Text,
    /// The character after a backslash in it.
    Escape,
    /// A number, `true`, `false` or `null`.
    Scalar,
    /// An array or object, outside its strings.
    Nested,
    Comma,
    End,
}

/// The brackets that are open inside a value, one bit each.
#[derive(Clone, Debug, Default)]
struct OpenBrackets {
    depth: usize,
    /// Set where an object is open, else an array is.
    objects: [u64; MAX_DEPTH / 64],
}

impl ObjectScanner {
    /// Scans the next piece and passes each field that ends in it to `found`.
    ///
    /// # Errors
    ///
    /// When the object cannot be followed; no further piece may be scanned then.
    pub(crate) fn scan(
        &mut self,
        piece: &[u8],
        mut found: impl FnMut(ScannedField<'_>),
    ) -> Result<(), MalformedObject> {
        let mut at = 0;
        while let Some(&byte) = piece.get(at) {
            match self.state {
                ScanState::Text => {
                    at = self.text(piece, at, &mut found);
                    continue;
                }
                ScanState::Nested => {
                    at = self.nested(piece, at, &mut found)?;
                    continue;
                }
                ScanState::Escape => self.state = ScanState::Text,
                ScanState::Name => {
                    let ended = self.name.push(byte);
                    if ended.ok_or(self.unexpected(self.scanned + at))? {
                        self.state = ScanState::Colon;
                    }
                }
                ScanState::Scalar if is_scalar(byte) => {}
                ScanState::Scalar => {
                    self.end_value(at, &mut found);
                    continue;
                }
                _ if is_space(byte) => {}
                _ => self.structure(byte, at)?,
            }
            at += 1;
        }
        self.scanned += piece.len();
        Ok(())
    }

    /// Whether the object, and nothing else, is complete.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub(crate) const fn finish(&self) -> Result<(), MalformedObject> {
        let expected = match self.state {
            ScanState::End => return Ok(()),
            state => state.expected(),
        };
        let at = self.scanned;
        Err(MalformedObject::Incomplete { expected, at })
    }

    /// A byte of the object's own structure, at top level.
    fn structure(&mut self, byte: u8, at: usize) -> Result<(), MalformedObject> {
        let position = self.scanned + at;
        self.state = match (self.state, byte) {
            (ScanState::Start, b'{') => ScanState::FirstField,
            (ScanState::Start, _) if BYTE_ORDER_MARK.get(position) == Some(&byte) => {
                ScanState::Start
            }
            (ScanState::FirstField, b'}') => ScanState::End,
            (ScanState::FirstField | ScanState::NextField, b'"') => {
                self.name = FieldName::default();
                self.name_start = position;
                ScanState::Name
            }
            (ScanState::Colon, b':') => ScanState::Value,
            (ScanState::Value, first) => {
                self.value_start = position;
                self.value_first = first;
                match first {
                    b'"' => ScanState::Text,
                    b'[' | b'{' => {
                        self.open.push(first, position)?;
                        ScanState::Nested
                    }
                    _ if is_scalar(first) => ScanState::Scalar,
                    _ => return Err(self.unexpected(position)),
                }
            }
            (ScanState::Comma, b',') => ScanState::NextField,
            (ScanState::Comma, b'}') => ScanState::End,
            _ => return Err(self.unexpected(position)),
        };
        Ok(())
    }

    /// Looks for the end of a string; returns the position after what was scanned.
    fn text(
        &mut self,
        piece: &[u8],
        mut at: usize,
        found: &mut impl FnMut(ScannedField<'_>),
    ) -> usize {
        while let Some(next) = memchr2(b'"', b'\\', &piece[at..]) {
            at += next + 1;
            if piece[at - 1] == b'"' {
                if self.open.depth == 0 {
                    self.end_value(at, found);
                } else {
                    self.state = ScanState::Nested;
                }
                return at;
            }
            if at == piece.len() {
                self.state = ScanState::Escape;
                return at;
            }
            at += 1;
        }
        piece.len()
    }

    /// Follows an array or object up to its next string, or its end; returns the position after
    /// what was scanned.
    fn nested(
        &mut self,
        piece: &[u8],
        mut at: usize,
        found: &mut impl FnMut(ScannedField<'_>),
    ) -> Result<usize, MalformedObject> {
        while let Some(&byte) = piece.get(at) {
            let position = self.scanned + at;
            at += 1;
            match NESTED[usize::from(byte)] {
                // Block ids of a KV cache, or a prompt of token ids: thousands of numbers.
                NestedByte::Plain if byte.is_ascii_digit() => at += numbers(&piece[at..]),
                NestedByte::Plain => {}
                NestedByte::Quote => {
                    self.state = ScanState::Text;
                    return Ok(at);
                }
                NestedByte::Opening => self.open.push(byte, position)?,
                NestedByte::Closing => {
                    if !self.open.pop(byte) {
                        return Err(self.unexpected(position));
                    }
                    if self.open.depth == 0 {
                        self.end_value(at, found);
                        return Ok(at);
                    }
                }
                NestedByte::Foreign => return Err(self.unexpected(position)),
            }
        }
        Ok(at)
    }

    /// The value of a field ended before `at`.
    fn end_value(&mut self, at: usize, found: &mut impl FnMut(ScannedField<'_>)) {
        self.state = ScanState::Comma;
        found(ScannedField {
            name: self.name.decoded(),
            start: self.name_start,
            value: BodySpan {
                start: self.value_start,
                end: self.scanned + at,
            },
            first: self.value_first,
        });
    }

    const fn unexpected(&self, at: usize) -> MalformedObject {
        let expected = self.state.expected();
        MalformedObject::Unexpected { expected, at }
    }
}

impl ScanState {
    const fn expected(self) -> &'static str {
        match self {
            Self::Start => "a JSON object",
            Self::FirstField => "the name of a field or `}`",
            Self::NextField => "the name of a field",
            Self::Name | Self::Text | Self::Escape => "the end of a string",
            Self::Colon => "`:`",
            Self::Value => "a value",
            Self::Scalar | Self::Comma => "`,` or `}`",
            Self::Nested => "the next element or the closing bracket",
            Self::End => "nothing more",
        }
    }
}

// === OpenBrackets ===

impl OpenBrackets {
    fn push(&mut self, bracket: u8, at: usize) -> Result<(), MalformedObject> {
        let Some(word) = self.objects.get_mut(self.depth / 64) else {
            return Err(MalformedObject::TooDeep { at });
        };
        let bit = 1 << (self.depth % 64);
        if bracket == b'{' {
            *word |= bit;
        } else {
            *word &= !bit;
        }
        self.depth += 1;
        Ok(())
    }

    /// Closes the innermost bracket; returns whether it is of this kind.
    fn pop(&mut self, bracket: u8) -> bool {
        self.depth -= 1;
        let is_object = self.objects[self.depth / 64] >> (self.depth % 64) & 1 == 1;
        is_object == (bracket == b'}')
    }
}

// === Bytes ===

/// U+FEFF in UTF-8: parsers in engines skip it.
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// What a byte inside an array or object is, outside strings.
#[derive(Clone, Copy)]
enum NestedByte {
    Foreign,
    /// White space, a separator, or part of a number or a literal.
    Plain,
    Quote,
    Opening,
    Closing,
}

const NESTED: [NestedByte; 256] = {
    let mut table = [NestedByte::Foreign; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = match byte as u8 {
            b'"' => NestedByte::Quote,
            b'[' | b'{' => NestedByte::Opening,
            b']' | b'}' => NestedByte::Closing,
            b',' | b':' => NestedByte::Plain,
            other if is_space(other) || is_scalar(other) => NestedByte::Plain,
            _ => NestedByte::Foreign,
        };
        byte += 1;
    }
    table
};

/// Bytes of numbers and of what separates them at the beginning, in steps that the compiler makes
/// vector instructions of; the rest is looked at one by one.
fn numbers(bytes: &[u8]) -> usize {
    const STEP: usize = 16;
    let is_number = |byte: u8| byte.is_ascii_digit() | (byte == b',') | (byte == b' ');
    let are_numbers = |step: &&[u8]| {
        let step = step.iter();
        step.fold(true, |all, byte| all & is_number(*byte))
    };
    STEP * bytes.chunks_exact(STEP).take_while(are_numbers).count()
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// Part of a number or a literal, `NaN` and `Infinity` of Python's parser included.
const fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')
}

#[cfg(test)]
mod tests;
