//! Follows a JSON document in pieces, up to the value of its member `model`.
//!
//! It looks at the names of two levels at most: the document's own, and those of one object in it.
//! Everything else is only delimited. What is no JSON has no such member.

use memchr::memchr2;

use super::{ValueCut, ValueCuts};

/// See the module.
#[derive(Debug)]
pub(super) struct ModelField {
    /// The member of the document whose member `model` counts too, if there is one.
    inside: Option<&'static [u8]>,
    state: FieldState,
    /// Arrays and objects that are open.
    depth: u32,
    /// The innermost but one is the document, and the innermost its member `inside`.
    is_inside: bool,
    /// The next string is a member's name.
    expects_name: bool,
    name: MemberName,
    /// Whose value comes next.
    names: NamedMember,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldState {
    /// Outside of strings.
    Structure,
    /// In a string that stays, or behind a backslash in it.
    Text,
    TextEscape,
    /// In the name of a member.
    Name,
    NameEscape,
    /// In the string that is replaced.
    Value,
    ValueEscape,
    /// The value has passed, or there is none.
    Settled,
}

/// A member that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NamedMember {
    Other,
    Model,
    Inside,
}

/// The beginning of a member's name, long enough to know those that are looked for.
#[derive(Clone, Copy, Debug, Default)]
struct MemberName {
    bytes: [u8; 8],
    /// More than fit if it is another name.
    length: usize,
}

impl ModelField {
    /// Of a document, and of its member with this name.
    pub(super) const fn inside(inside: Option<&'static [u8]>) -> Self {
        Self {
            inside,
            state: FieldState::Structure,
            depth: 0,
            is_inside: false,
            expects_name: false,
            name: MemberName {
                bytes: [0; 8],
                length: 0,
            },
            names: NamedMember::Other,
        }
    }

    /// Another document begins.
    pub(super) fn restart(&mut self) {
        *self = Self::inside(self.inside);
    }

    /// Nothing more of the document is replaced.
    pub(super) fn is_settled(&self) -> bool {
        self.state == FieldState::Settled
    }

    /// Scans the next bytes of the document, which are at `offset` in their piece.
    pub(super) fn scan(&mut self, text: &[u8], offset: usize, cuts: &mut ValueCuts) {
        let mut at = 0;
        while at < text.len() {
            match self.state {
                FieldState::Settled => return,
                FieldState::Structure => at = self.structure(text, at, offset, cuts),
                FieldState::Text | FieldState::TextEscape => {
                    at = self.string(text, at, FieldState::Text, FieldState::TextEscape);
                }
                FieldState::Name => {
                    self.name_byte(text[at]);
                    at += 1;
                }
                FieldState::NameEscape => {
                    self.state = FieldState::Name;
                    at += 1;
                }
                FieldState::Value | FieldState::ValueEscape => {
                    let begin = at;
                    at = self.string(text, at, FieldState::Value, FieldState::ValueEscape);
                    cut(cuts, offset + begin, offset + at);
                    if self.state == FieldState::Structure {
                        self.state = FieldState::Settled;
                    }
                }
            }
        }
    }

    /// Follows what is outside of strings, up to behind the next quote; returns where that is.
    fn structure(
        &mut self,
        text: &[u8],
        mut at: usize,
        offset: usize,
        cuts: &mut ValueCuts,
    ) -> usize {
        while let Some(&byte) = text.get(at) {
            at += 1;
            match byte {
                b'"' => {
                    self.state = self.quote();
                    if self.state == FieldState::Value {
                        cuts.push(ValueCut {
                            start: offset + at - 1,
                            end: offset + at,
                            is_beginning: true,
                        });
                    }
                    return at;
                }
                b'{' | b'[' => self.open(byte),
                b'}' | b']' => self.close(),
                b',' => {
                    self.expects_name = self.depth == 1 || (self.depth == 2 && self.is_inside);
                    self.names = NamedMember::Other;
                }
                b':' | b' ' | b'\t' | b'\r' | b'\n' => {}
                // A number or a literal: this member's value is no string.
                _ => self.names = NamedMember::Other,
            }
            if self.state == FieldState::Settled {
                return at;
            }
        }
        at
    }

    /// Which string begins with a quote.
    fn quote(&mut self) -> FieldState {
        if std::mem::take(&mut self.expects_name) {
            self.name = MemberName::default();
            return FieldState::Name;
        }
        match std::mem::replace(&mut self.names, NamedMember::Other) {
            NamedMember::Model => FieldState::Value,
            NamedMember::Other | NamedMember::Inside => FieldState::Text,
        }
    }

    fn open(&mut self, bracket: u8) {
        let named = std::mem::replace(&mut self.names, NamedMember::Other);
        self.depth = self.depth.saturating_add(1);
        self.expects_name = false;
        match (self.depth, bracket) {
            (1, b'{') => self.expects_name = true,
            // A list has no members.
            (1, _) => self.state = FieldState::Settled,
            (2, b'{') if named == NamedMember::Inside => {
                self.is_inside = true;
                self.expects_name = true;
            }
            _ => {}
        }
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.expects_name = false;
        self.names = NamedMember::Other;
        match self.depth {
            0 => self.state = FieldState::Settled,
            1 => self.is_inside = false,
            _ => {}
        }
    }

    fn name_byte(&mut self, byte: u8) {
        match byte {
            b'\\' => {
                // No name that is looked for needs an escape.
                self.name.length = MemberName::TOO_LONG;
                self.state = FieldState::NameEscape;
            }
            b'"' => {
                self.state = FieldState::Structure;
                self.names = match self.name.ended() {
                    Some(b"model") => NamedMember::Model,
                    Some(name) if Some(name) == self.inside && self.depth == 1 => {
                        NamedMember::Inside
                    }
                    _ => NamedMember::Other,
                };
            }
            _ => self.name.push(byte),
        }
    }

    /// Follows a string up to behind its closing quote; returns where that is, or the end of the
    /// text.
    fn string(
        &mut self,
        text: &[u8],
        mut at: usize,
        plain: FieldState,
        escape: FieldState,
    ) -> usize {
        if self.state == escape {
            self.state = plain;
            at += 1;
        }
        while let Some(next) = memchr2(b'"', b'\\', &text[at..]) {
            at += next + 1;
            if text[at - 1] == b'"' {
                self.state = FieldState::Structure;
                return at;
            }
            if at == text.len() {
                self.state = escape;
                return at;
            }
            at += 1;
        }
        text.len()
    }
}

/// Adds a part of the value to what is left out.
fn cut(cuts: &mut ValueCuts, start: usize, end: usize) {
    match cuts.last_mut() {
        Some(last) if last.end == start => last.end = end,
        _ => cuts.push(ValueCut {
            start,
            end,
            is_beginning: false,
        }),
    }
}

impl MemberName {
    const TOO_LONG: usize = usize::MAX;

    fn push(&mut self, byte: u8) {
        // Beyond its end there is no place, also behind the end of a name that is too long.
        match self.bytes.get_mut(self.length) {
            Some(place) => {
                *place = byte;
                self.length += 1;
            }
            None => self.length = Self::TOO_LONG,
        }
    }

    /// The name, if it is not too long to be looked for.
    fn ended(&self) -> Option<&[u8]> {
        self.bytes.get(..self.length)
    }
}
