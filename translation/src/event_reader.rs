//! Server-sent events, read from pieces that may be cut anywhere.
//!
//! Source: the HTML standard, 9.2.6, "Interpreting an event stream". Both APIs write what an event
//! is into its data, so that its name is not read.

/// The longest event, in bytes. A longer one ends the stream.
pub(crate) const LONGEST_EVENT: usize = 16 << 20;

/// Follows one stream. Its memory is bounded by [`LONGEST_EVENT`].
#[derive(Debug, Default)]
pub(crate) struct EventReader {
    /// The beginning of a line whose end has not arrived.
    line: Vec<u8>,
    /// The data of the event that is being read, or of the one that was returned last.
    data: Vec<u8>,
    has_data: bool,
    is_returned: bool,
    /// The last line ended with a carriage return. A line feed behind it is no line.
    after_return: bool,
    /// A line was read. Only the first may begin with a byte order mark.
    is_begun: bool,
}

/// What a stream has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StreamItem<'r> {
    /// An event with this data.
    Data(&'r [u8]),
    /// A line that keeps the connection open.
    Comment,
}

/// An event is longer than [`LONGEST_EVENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverlongEvent;

impl EventReader {
    /// The next item; what was read of the piece is cut off from it. `None` if the rest of it is
    /// no whole item, and is kept.
    pub(crate) fn next(
        &mut self,
        piece: &mut &[u8],
    ) -> Result<Option<StreamItem<'_>>, OverlongEvent> {
        if std::mem::take(&mut self.is_returned) {
            self.data.clear();
        }
        while !piece.is_empty() {
            if std::mem::take(&mut self.after_return) && piece[0] == b'\n' {
                *piece = &piece[1..];
                continue;
            }
            let end = piece.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let length = end.unwrap_or(piece.len());
            if self.line.len() + self.data.len() + length > LONGEST_EVENT {
                return Err(OverlongEvent);
            }
            let (head, rest) = piece.split_at(length);
            let Some(&terminator) = rest.first() else {
                self.line.extend_from_slice(head);
                *piece = rest;
                break;
            };
            *piece = &rest[1..];
            self.after_return = terminator == b'\r';
            match self.end_line(head) {
                LineKind::Field => {}
                LineKind::Comment => return Ok(Some(StreamItem::Comment)),
                LineKind::EndOfEvent => {
                    self.is_returned = true;
                    return Ok(Some(StreamItem::Data(&self.data)));
                }
            }
        }
        Ok(None)
    }

    /// The data of an event that the end of the stream cut off before its empty line.
    pub(crate) fn rest(&mut self) -> Option<&[u8]> {
        if std::mem::take(&mut self.is_returned) {
            self.data.clear();
        }
        if !self.line.is_empty() {
            self.end_line(&[]);
        }
        std::mem::take(&mut self.has_data).then_some(&*self.data)
    }

    fn end_line(&mut self, head: &[u8]) -> LineKind {
        let mut kept = std::mem::take(&mut self.line);
        let mut line = head;
        if !kept.is_empty() {
            kept.extend_from_slice(head);
            line = &kept;
        }
        if !std::mem::replace(&mut self.is_begun, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        let kind = match line {
            [] if std::mem::take(&mut self.has_data) => LineKind::EndOfEvent,
            [b':', ..] => LineKind::Comment,
            _ => {
                if let Some(value) = line.strip_prefix(b"data:") {
                    self.add_data(value.strip_prefix(b" ").unwrap_or(value));
                } else if line == b"data" {
                    self.add_data(&[]);
                }
                LineKind::Field
            }
        };
        kept.clear();
        self.line = kept;
        kind
    }

    fn add_data(&mut self, value: &[u8]) {
        if std::mem::replace(&mut self.has_data, true) {
            self.data.push(b'\n');
        }
        self.data.extend_from_slice(value);
    }
}

enum LineKind {
    Field,
    Comment,
    EndOfEvent,
}

#[cfg(test)]
mod tests {
    use super::{EventReader, LONGEST_EVENT, OverlongEvent, StreamItem};

    fn read(pieces: &[&[u8]]) -> Vec<Option<String>> {
        let mut reader = EventReader::default();
        let mut items = Vec::new();
        for piece in pieces {
            let mut piece = *piece;
            while let Some(item) = reader.next(&mut piece).expect("events that are short") {
                items.push(match item {
                    StreamItem::Data(data) => Some(String::from_utf8_lossy(data).into_owned()),
                    StreamItem::Comment => None,
                });
            }
        }
        let rest = reader.rest();
        items.extend(rest.map(|data| Some(String::from_utf8_lossy(data).into_owned())));
        items
    }

    #[test]
    fn lines_end_with_either_or_both_characters_and_data_may_have_several() {
        let text = "\u{feff}event: x\r\ndata: a\r\ndata:b\r\n\r\n: alive\ndata\ndata: c\n\ndata: d";
        let items = read(&[text.as_bytes()]);
        let data = |text: &str| Some(text.to_owned());
        assert_eq!(items, [data("a\nb"), None, data("\nc"), data("d")]);
        let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
        assert_eq!(read(&bytes), items);
    }

    #[test]
    fn an_event_without_end_is_refused_before_it_fills_the_memory() {
        let mut reader = EventReader::default();
        let piece = vec![b'x'; LONGEST_EVENT / 2 + 1];
        let mut first = &*piece;
        assert_eq!(reader.next(&mut first), Ok(None));
        let mut second = &*piece;
        assert_eq!(reader.next(&mut second), Err(OverlongEvent));
    }
}
