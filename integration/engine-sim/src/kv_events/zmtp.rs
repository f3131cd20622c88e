//! ZMTP 3.0 for a PUB and a ROUTER socket.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest frame that a client may send: they send subscriptions and numbers.
const MAX_FRAME: u64 = 1 << 16;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Message(Vec<Vec<u8>>),
    /// Whole, its name included.
    Command(Vec<u8>),
}

/// Exchanges greetings and announces the type of this socket.
pub(super) async fn shake_hands(stream: &mut TcpStream, socket: &str) -> io::Result<()> {
    let mut greeting = [0; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    greeting[32] = 1;
    stream.write_all(&greeting).await?;
    stream.read_exact(&mut greeting).await?;
    let mut ready = b"\x05READY\x0bSocket-Type".to_vec();
    ready.extend((socket.len() as u32).to_be_bytes());
    ready.extend(socket.as_bytes());
    stream.write_all(&frame(COMMAND, &ready)).await?;
    match receive(stream).await? {
        Received::Command(command) if command.starts_with(b"\x05READY") => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the client does not shake hands",
        )),
    }
}

/// The next message or command. Not to be dropped in between.
pub(super) async fn receive<R: AsyncReadExt + Unpin>(stream: &mut R) -> io::Result<Received> {
    let mut frames = Vec::new();
    loop {
        let flags = stream.read_u8().await?;
        let length = if flags & LONG != 0 {
            stream.read_u64().await?
        } else {
            stream.read_u8().await?.into()
        };
        if length > MAX_FRAME || frames.len() > 8 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the client sends too much",
            ));
        }
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body).await?;
        if flags & COMMAND != 0 {
            return Ok(Received::Command(body));
        }
        frames.push(body);
        if flags & MORE == 0 {
            return Ok(Received::Message(frames));
        }
    }
}

/// A message as bytes.
pub(super) fn message(frames: &[&[u8]]) -> Vec<u8> {
    let last = frames.len() - 1;
    frames
        .iter()
        .enumerate()
        .flat_map(|(at, body)| frame(if at < last { MORE } else { 0 }, body))
        .collect()
}

/// The answer to a command, if it wants one.
pub(super) fn answer(command: &[u8]) -> Option<Vec<u8>> {
    let context = command.strip_prefix(b"\x04PING")?.get(2..)?;
    Some(frame(COMMAND, &[b"\x04PONG", context].concat()))
}

fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = match u8::try_from(body.len()) {
        Ok(short) => vec![flags, short],
        Err(_) => [&[flags | LONG][..], &(body.len() as u64).to_be_bytes()].concat(),
    };
    bytes.extend_from_slice(body);
    bytes
}
