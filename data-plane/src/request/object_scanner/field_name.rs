//! The name of a field, decoded while its bytes arrive.

/// Longer than every name that is looked for.
const MAX_NAME: usize = 32;

/// Replaces what is not ASCII: no name that is looked for has it.
const OTHER: u8 = 0xff;

/// A name up to its closing quote.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FieldName {
    bytes: [u8; MAX_NAME],
    /// Of the decoded name, which may be longer than what is kept.
    len: usize,
    escape: NameEscape,
}

/// Where in an escape sequence the next byte is.
#[derive(Clone, Copy, Debug, Default)]
enum NameEscape {
    #[default]
    None,
    /// After the backslash.
    Begun,
    /// After `u` and some of its four digits.
    Unicode { value: u16, digits: u8 },
}

impl FieldName {
    /// Takes the next byte; returns whether it is the closing quote, or `None` where a string
    /// cannot have this byte.
    pub(super) fn push(&mut self, byte: u8) -> Option<bool> {
        match self.escape {
            NameEscape::None => match byte {
                b'"' => return Some(true),
                b'\\' => self.escape = NameEscape::Begun,
                0..0x20 => return None,
                _ => self.keep(byte),
            },
            NameEscape::Begun => {
                self.escape = NameEscape::None;
                match byte {
                    b'"' | b'\\' | b'/' => self.keep(byte),
                    b'b' => self.keep(8),
                    b'f' => self.keep(12),
                    b'n' => self.keep(b'\n'),
                    b'r' => self.keep(b'\r'),
                    b't' => self.keep(b'\t'),
                    b'u' => {
                        self.escape = NameEscape::Unicode {
                            value: 0,
                            digits: 0,
                        };
                    }
                    _ => return None,
                }
            }
            NameEscape::Unicode { value, digits } => {
                let digit = char::from(byte).to_digit(16)?;
                let value = value << 4 | digit as u16;
                if digits < 3 {
                    let digits = digits + 1;
                    self.escape = NameEscape::Unicode { value, digits };
                } else {
                    self.escape = NameEscape::None;
                    let ascii = u8::try_from(value).ok().filter(u8::is_ascii);
                    self.keep(ascii.unwrap_or(OTHER));
                }
            }
        }
        Some(false)
    }

    /// The name; nothing if it is longer than what is kept.
    pub(super) fn decoded(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn keep(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
        }
        self.len = self.len.saturating_add(1);
    }
}
