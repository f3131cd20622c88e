//! Lines of an event stream (WHATWG HTML, 9.2.6), each ended by CR, LF or CRLF, and the borders
//! between events: empty lines.

/// A line, by its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventLine<'a> {
    /// `event:`, the name.
    Event(&'a [u8]),
    /// `data:`
    Data(&'a [u8]),
    /// A comment, `id:`, `retry:`, or an empty line.
    Other,
    /// A field that no event stream has.
    Garbage,
}

/// Whether the bytes of a stream that have passed end between two events. It keeps the last four
/// bytes: enough for two line ends.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::exchange) struct EventBorder {
    tail: [u8; 4],
    /// How many of them are set, from the end.
    known: usize,
}

impl<'a> EventLine<'a> {
    pub(super) fn parse(line: &'a [u8]) -> Self {
        let colon = memchr::memchr(b':', line);
        let (field, value) = match colon {
            Some(0) => return Self::Other,
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => Self::Event(value),
            b"data" => Self::Data(value),
            b"" | b"id" | b"retry" => Self::Other,
            _ => Self::Garbage,
        }
    }
}

/// The first line of `text` without its end, and its length with its end; `None` if it does not
/// end.
pub(super) fn next_line(text: &[u8]) -> Option<(&[u8], usize)> {
    let end = memchr::memchr2(b'\r', b'\n', text)?;
    let is_pair = text[end] == b'\r' && text.get(end + 1) == Some(&b'\n');
    Some((&text[..end], end + 1 + usize::from(is_pair)))
}

impl EventBorder {
    /// Bytes have passed.
    pub(in crate::exchange) fn pass(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(4);
        self.tail.copy_within(kept.., 0);
        self.tail[4 - kept..].copy_from_slice(&bytes[bytes.len() - kept..]);
        self.known = (self.known + kept).min(4);
    }

    /// Whether the stream is between two events, or before its first.
    pub(in crate::exchange) fn is_between(&self) -> bool {
        let mut rest = &self.tail[4 - self.known..];
        for _ in 0..2 {
            rest = match rest {
                [] if self.known == 0 => return true,
                [before @ .., b'\r', b'\n'] | [before @ .., b'\r' | b'\n'] => before,
                _ => return false,
            };
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn is_between(text: &str) -> bool {
        let mut border = EventBorder::default();
        border.pass(text.as_bytes());
        border.is_between()
    }

    #[test]
    fn events_end_with_an_empty_line_whatever_ends_lines() {
        for end in ["\n\n", "\r\r", "\r\n\r\n", "\n\r", "\n\r\n", "\r\n\r"] {
            assert!(is_between(&format!("data: x{end}")), "{end:?}");
        }
        for end in ["", "\n", "\r", "\r\n"] {
            assert!(!is_between(&format!("data: x{end}")), "{end:?}");
        }
        assert!(is_between(""), "nothing has begun");
    }

    #[test]
    fn a_line_has_one_field() {
        assert_eq!(EventLine::parse(b"data: x: y"), EventLine::Data(b"x: y"));
        assert_eq!(EventLine::parse(b"data:x"), EventLine::Data(b"x"));
        assert_eq!(
            EventLine::parse(b"event: error"),
            EventLine::Event(b"error")
        );
        assert_eq!(EventLine::parse(b": keep-alive"), EventLine::Other);
        assert_eq!(EventLine::parse(b"<html>"), EventLine::Garbage);
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[a\r\n]{0,12}", cut in 0usize..12) {
            let cut = cut.min(text.len());
            let mut border = EventBorder::default();
            border.pass(&text.as_bytes()[..cut]);
            border.pass(&text.as_bytes()[cut..]);
            prop_assert_eq!(border.is_between(), is_between(&text));
        }
    }
}
