//! ZMTP 3.0 as bytes: greeting, frames, commands, and messages of several frames. Pure.
//!
//! ```text
//!   greeting  ff 00×8 7f │ major minor │ mechanism, 20 bytes │ as-server │ 00×31
//!   frame     flags: 1 = more follows, 2 = long, 4 = command │ size: 1 byte, or 8 if long │ body
//!   command   length of its name, 1 byte │ name │ data
//! ```
//!
//! <https://rfc.zeromq.org/spec/23/>; PING and PONG are of 3.1 (<https://rfc.zeromq.org/spec/37/>),
//! and libzmq answers them to peers of 3.0 too.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use smallvec::SmallVec;

use super::ZmtpError;

/// Bytes of a greeting.
pub(super) const GREETING: usize = 64;

/// Largest message that is read, all frames together: a batch with two million tokens.
pub(super) const MAX_MESSAGE: usize = 16 << 20;

/// Most frames of one message.
const MAX_FRAMES: usize = 16;

/// Largest command that is read.
const MAX_COMMAND: usize = 64 << 10;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// The frames of one message.
pub(in super::super) type Message = SmallVec<[Bytes; 4]>;

/// What a peer said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Message(Message),
    /// A command's name and data.
    Command(Bytes, Bytes),
}

/// Puts frames together.
#[derive(Debug)]
pub(super) struct Assembly {
    parts: Message,
    size: usize,
    /// Largest message that is read, all frames together.
    limit: usize,
}

/// What a client sends first: version 3.0, no security.
pub(super) fn greeting() -> [u8; GREETING] {
    let mut greeting = [0; GREETING];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

/// Whether this is the greeting of a peer that we can talk to.
pub(super) fn check_greeting(greeting: &[u8; GREETING]) -> Result<(), ZmtpError> {
    if greeting[0] != 0xff || greeting[9] & 1 == 0 {
        return Err(ZmtpError::Protocol("this is no ZeroMQ socket"));
    }
    if greeting[10] < 3 {
        return Err(ZmtpError::Protocol("the peer speaks a ZMTP older than 3.0"));
    }
    let mechanism = greeting[12..32]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    if mechanism != b"NULL" {
        return Err(ZmtpError::Protocol("the peer wants authentication"));
    }
    Ok(())
}

/// Appends a message.
pub(super) fn write_message(out: &mut BytesMut, frames: &[&[u8]]) {
    for (at, frame) in frames.iter().enumerate() {
        let more = if at + 1 < frames.len() { MORE } else { 0 };
        write_frame(out, more, &[frame]);
    }
}

/// Appends a command.
pub(super) fn write_command(out: &mut BytesMut, name: &str, data: &[u8]) {
    write_frame(out, COMMAND, &[&[name.len() as u8], name.as_bytes(), data]);
}

/// The data of READY: what kind of socket we are, and which.
pub(super) fn ready(socket: &str, identity: &[u8]) -> BytesMut {
    let mut data = BytesMut::new();
    for (name, value) in [("Socket-Type", socket.as_bytes()), ("Identity", identity)] {
        data.put_u8(name.len() as u8);
        data.put_slice(name.as_bytes());
        data.put_u32(value.len() as u32);
        data.put_slice(value);
    }
    data
}

/// The value of one of READY's properties.
pub(super) fn property(mut data: Bytes, wanted: &str) -> Option<Bytes> {
    while !data.is_empty() {
        let name = split(&mut data, 1)?;
        let name = split(&mut data, name[0].into())?;
        let mut length = split(&mut data, 4)?;
        let length = usize::try_from(length.get_u32()).ok()?;
        let value = split(&mut data, length)?;
        if name.eq_ignore_ascii_case(wanted.as_bytes()) {
            return Some(value);
        }
    }
    None
}

fn write_frame(out: &mut BytesMut, flags: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    match u8::try_from(length) {
        Ok(short) => out.put_slice(&[flags, short]),
        Err(_) => {
            out.put_u8(flags | LONG);
            out.put_u64(length as u64);
        }
    }
    parts.iter().for_each(|part| out.put_slice(part));
}

fn split(data: &mut Bytes, length: usize) -> Option<Bytes> {
    (data.len() >= length).then(|| data.split_to(length))
}

// === Assembly ===

impl Default for Assembly {
    fn default() -> Self {
        Self {
            parts: Message::default(),
            size: 0,
            limit: MAX_MESSAGE,
        }
    }
}

impl Assembly {
    /// Reads no message larger than this from now on.
    pub(super) fn limit(&mut self, bytes: usize) {
        self.limit = bytes.min(MAX_MESSAGE);
    }

    /// What the bytes so far make whole; nothing when more are needed.
    pub(super) fn next(&mut self, inbox: &mut BytesMut) -> Result<Option<Incoming>, ZmtpError> {
        loop {
            let Some((flags, header, length)) = head(inbox) else {
                return Ok(None);
            };
            let is_command = flags & COMMAND != 0;
            if flags > MORE | LONG | COMMAND || is_command && flags & MORE != 0 {
                return Err(ZmtpError::Protocol("a frame has flags that do not exist"));
            }
            let room = if is_command {
                MAX_COMMAND
            } else {
                self.limit.saturating_sub(self.size)
            };
            let length = usize::try_from(length)
                .ok()
                .filter(|length| *length <= room)
                .ok_or(ZmtpError::TooLarge)?;
            if inbox.len() < header + length {
                return Ok(None);
            }
            inbox.advance(header);
            let body = inbox.split_to(length).freeze();
            if is_command {
                return command(body).map(Some);
            }
            self.size += length;
            self.parts.push(body);
            if flags & MORE == 0 {
                self.size = 0;
                return Ok(Some(Incoming::Message(std::mem::take(&mut self.parts))));
            }
            if self.parts.len() >= MAX_FRAMES {
                return Err(ZmtpError::TooLarge);
            }
        }
    }
}

/// Flags, length of the header, length of the body.
fn head(inbox: &BytesMut) -> Option<(u8, usize, u64)> {
    let flags = *inbox.first()?;
    if flags & LONG == 0 {
        return Some((flags, 2, (*inbox.get(1)?).into()));
    }
    let length = inbox.get(1..9)?.first_chunk()?;
    Some((flags, 9, u64::from_be_bytes(*length)))
}

fn command(mut body: Bytes) -> Result<Incoming, ZmtpError> {
    let nameless = ZmtpError::Protocol("a command has no name");
    let length = split(&mut body, 1).map(|length| usize::from(length[0]));
    match length.and_then(|length| split(&mut body, length)) {
        Some(name) => Ok(Incoming::Command(name, body)),
        None => Err(nameless),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(inbox: &mut BytesMut) -> Vec<Incoming> {
        let mut assembly = Assembly::default();
        std::iter::from_fn(|| assembly.next(inbox).expect("well formed")).collect()
    }

    #[test]
    fn the_greeting_is_that_of_a_client_without_security() {
        check_greeting(&greeting()).expect("we could talk to ourselves");
        let mut old = greeting();
        old[10] = 1;
        assert!(check_greeting(&old).is_err());
        let mut curve = greeting();
        curve[12..17].copy_from_slice(b"CURVE");
        assert!(check_greeting(&curve).is_err());
        assert!(
            check_greeting(
                b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n                 "
            )
            .is_err()
        );
    }

    #[test]
    fn a_socket_says_what_it_is() {
        let data = ready("SUB", b"").freeze();
        assert_eq!(
            property(data.clone(), "socket-type").as_deref(),
            Some(&b"SUB"[..])
        );
        assert_eq!(property(data.clone(), "other"), None);
        assert_eq!(
            property(data.slice(..data.len() - 1), "other"),
            None,
            "cut off"
        );
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_its_bytes_come() {
        let mut inbox = BytesMut::from(&[LONG, 0, 0, 0, 1, 0, 0, 0, 0][..]);
        assert!(matches!(
            Assembly::default().next(&mut inbox),
            Err(ZmtpError::TooLarge)
        ));
        let mut inbox = BytesMut::new();
        (0..=MAX_FRAMES).for_each(|_| inbox.put_slice(&[MORE, 0]));
        assert!(matches!(
            Assembly::default().next(&mut inbox),
            Err(ZmtpError::TooLarge)
        ));
    }

    proptest! {
        #[test]
        fn messages_come_back_however_they_are_cut(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 1..5), cut in 0.0..1.0_f64,
        ) {
            let mut bytes = BytesMut::new();
            let parts: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            write_message(&mut bytes, &parts);
            write_command(&mut bytes, "PING", &[0, 9, 1]);
            let mut assembly = Assembly::default();
            let mut inbox = BytesMut::from(&bytes[..(bytes.len() as f64 * cut) as usize]);
            let rest = bytes.split_off(inbox.len());
            let mut seen = Vec::new();
            while let Some(incoming) = assembly.next(&mut inbox).expect("well formed") {
                seen.push(incoming);
            }
            inbox.extend_from_slice(&rest);
            while let Some(incoming) = assembly.next(&mut inbox).expect("well formed") {
                seen.push(incoming);
            }
            let message = frames.into_iter().map(Bytes::from).collect();
            let ping = Incoming::Command("PING".into(), Bytes::from_static(&[0, 9, 1]));
            prop_assert_eq!(seen, [Incoming::Message(message), ping]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut assembly = Assembly::default();
            let mut inbox = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = assembly.next(&mut inbox) {}
            let _property = property(bytes.into(), "Socket-Type");
        }
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let mut bytes = BytesMut::new();
        write_message(&mut bytes, &[b"", &[7; 300]]);
        assert_eq!(bytes.len(), 2 + 9 + 300);
        assert_eq!(read(&mut bytes).len(), 1);
    }
}
