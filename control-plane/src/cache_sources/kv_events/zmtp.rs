//! A ZeroMQ socket for one peer: SUB toward a publisher, DEALER toward its replay socket.
//!
//! ```text
//!   connect or accept ─▶ greetings ─▶ READY both ways ─▶ messages
//!                                                        PING ─▶ PONG: the peer is there
//! ```
//!
//! Existing libraries reconnect by themselves and hide a broken connection; this one reports it at
//! once, so that the index of that rank is not used any longer
//! (`docs/decisions/0010-own-zmtp-client.md`).
//!
//! Invariants: one connection, no task, no queue but the bytes of the message that is being read;
//! [`Peer::next`] may be dropped at any point and called again; nothing waits for longer than its
//! caller allows.

mod frame;

use std::{io, time::Duration};

use bytes::{Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

pub(super) use self::frame::Message;
use self::frame::{Assembly, GREETING, Incoming};

/// Room that is made for each read.
const READ: usize = 16 << 10;

/// For how long a peer may keep the connection after our last sign of life, in tenths of a second;
/// libzmq obeys.
const TTL: u16 = 300;

/// What kind of socket we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    /// Publishes to SUB and XSUB sockets.
    Pub,
    /// Receives what a PUB or XPUB socket publishes.
    Sub,
    /// Talks to a ROUTER or REP socket.
    Dealer,
}

/// A connection whose handshake is done.
#[derive(Debug)]
pub(super) struct Peer {
    stream: TcpStream,
    inbox: BytesMut,
    outbox: BytesMut,
    assembly: Assembly,
    /// The other side's.
    identity: Bytes,
    last_received: Instant,
    answers_pings: bool,
}

/// Why there is no connection, or none any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum ZmtpError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(&'static str),
    #[error("the peer is a {0} socket: is the port right?")]
    WrongSocket(String),
    #[error("the peer refuses: {0}")]
    Refused(String),
    #[error("a message is too large, or has too many frames")]
    TooLarge,
}

// === Socket ===

impl Socket {
    const fn name(self) -> &'static str {
        match self {
            Self::Pub => "PUB",
            Self::Sub => "SUB",
            Self::Dealer => "DEALER",
        }
    }

    fn fits(self, peer: &[u8]) -> bool {
        match self {
            Self::Pub => matches!(peer, b"SUB" | b"XSUB"),
            Self::Sub => matches!(peer, b"PUB" | b"XPUB"),
            Self::Dealer => matches!(peer, b"ROUTER" | b"REP" | b"DEALER"),
        }
    }
}

// === Peer ===

impl Peer {
    /// Connects to `host:port` and shakes hands.
    pub(super) async fn connect(authority: &str, socket: Socket) -> Result<Self, ZmtpError> {
        let mut peer = Self::over(TcpStream::connect(authority).await?)?;
        peer.exchange_greetings().await?;
        peer.send_ready(socket, b"").await?;
        peer.await_ready(&[socket]).await?;
        Ok(peer)
    }

    /// Shakes hands with one that connected, as the one of `sockets` whose counterpart it is, under
    /// the name `identity`.
    pub(super) async fn accept(
        stream: TcpStream,
        sockets: &[Socket],
        identity: &[u8],
    ) -> Result<(Self, Socket), ZmtpError> {
        let mut peer = Self::over(stream)?;
        peer.exchange_greetings().await?;
        let socket = peer.await_ready(sockets).await?;
        peer.send_ready(socket, identity).await?;
        Ok((peer, socket))
    }

    /// The name that the other side has given itself; mostly empty.
    pub(super) fn identity(&self) -> &[u8] {
        &self.identity
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        // For peers that do not answer pings.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(10))
            .with_interval(Duration::from_secs(5));
        SockRef::from(&stream).set_tcp_keepalive(&keepalive.with_retries(3))?;
        Ok(Self {
            stream,
            inbox: BytesMut::new(),
            outbox: BytesMut::new(),
            assembly: Assembly::default(),
            identity: Bytes::new(),
            last_received: Instant::now(),
            answers_pings: false,
        })
    }

    /// Reads no message larger than this many bytes, all frames together; at most
    /// [`frame::MAX_MESSAGE`].
    pub(super) fn limit_messages(&mut self, bytes: usize) {
        self.assembly.limit(bytes);
    }

    /// Sends a message.
    pub(super) async fn send(&mut self, frames: &[&[u8]]) -> Result<(), ZmtpError> {
        frame::write_message(&mut self.outbox, frames);
        self.flush().await
    }

    /// Asks for every message whose first frame begins with `topic`.
    pub(super) async fn subscribe(&mut self, topic: &[u8]) -> Result<(), ZmtpError> {
        self.send(&[&[&[1], topic].concat()]).await
    }

    /// Takes a subscription back.
    pub(super) async fn unsubscribe(&mut self, topic: &[u8]) -> Result<(), ZmtpError> {
        self.send(&[&[&[0], topic].concat()]).await
    }

    /// Asks for a sign of life.
    pub(super) async fn ping(&mut self) -> Result<(), ZmtpError> {
        frame::write_command(&mut self.outbox, "PING", &TTL.to_be_bytes());
        self.flush().await
    }

    /// When the peer last said anything at all.
    pub(super) fn last_received(&self) -> Instant {
        self.last_received
    }

    /// Whether it has answered a ping: only then does silence mean that it is gone.
    pub(super) fn answers_pings(&self) -> bool {
        self.answers_pings
    }

    /// The next message; nothing when a ping was answered instead.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, ZmtpError> {
        loop {
            match self.assembly.next(&mut self.inbox)? {
                Some(Incoming::Message(message)) => return Ok(Some(message)),
                Some(Incoming::Command(name, data)) if self.obey(&name, &data)? => return Ok(None),
                Some(Incoming::Command(..)) => {}
                None => {
                    self.flush().await?;
                    self.read().await?;
                }
            }
        }
    }

    /// Follows a command, and answers whether it is the answer to a ping.
    fn obey(&mut self, name: &[u8], data: &Bytes) -> Result<bool, ZmtpError> {
        match name {
            b"PONG" => self.answers_pings = true,
            b"PING" => {
                // Its first two bytes are a time to live; the rest is to be sent back.
                frame::write_command(&mut self.outbox, "PONG", data.get(2..).unwrap_or_default());
            }
            b"ERROR" => return Err(refused(data)),
            _ => {}
        }
        Ok(name == b"PONG")
    }

    async fn exchange_greetings(&mut self) -> Result<(), ZmtpError> {
        self.outbox.extend_from_slice(&frame::greeting());
        self.flush().await?;
        while self.inbox.len() < GREETING {
            self.read().await?;
        }
        let greeting = self.inbox.split_to(GREETING);
        let greeting = greeting
            .first_chunk()
            .ok_or(ZmtpError::Protocol("a greeting is too short"))?;
        frame::check_greeting(greeting)
    }

    async fn send_ready(&mut self, socket: Socket, identity: &[u8]) -> Result<(), ZmtpError> {
        let ready = frame::ready(socket.name(), identity);
        frame::write_command(&mut self.outbox, "READY", &ready);
        self.flush().await
    }

    /// Which of `sockets` we are to the peer.
    async fn await_ready(&mut self, sockets: &[Socket]) -> Result<Socket, ZmtpError> {
        loop {
            match self.assembly.next(&mut self.inbox)? {
                Some(Incoming::Command(name, data)) if *name == *b"READY" => {
                    let identity = frame::property(data.clone(), "Identity");
                    self.identity = identity.unwrap_or_default();
                    return counterpart(sockets, data);
                }
                Some(Incoming::Command(name, data)) if *name == *b"ERROR" => {
                    return Err(refused(&data));
                }
                Some(_) => return Err(ZmtpError::Protocol("the peer does not shake hands")),
                None => self.read().await?,
            }
        }
    }

    /// Sends what is waiting. What was not sent when this is dropped still waits.
    async fn flush(&mut self) -> Result<(), ZmtpError> {
        while !self.outbox.is_empty() {
            if self.stream.write_buf(&mut self.outbox).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::WriteZero).into());
            }
        }
        Ok(())
    }

    /// Reads some bytes. Room grows with what has come, not with what a frame claims.
    async fn read(&mut self) -> Result<(), ZmtpError> {
        self.inbox.reserve(READ);
        if self.stream.read_buf(&mut self.inbox).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.last_received = Instant::now();
        Ok(())
    }
}

fn counterpart(sockets: &[Socket], data: Bytes) -> Result<Socket, ZmtpError> {
    let peer = frame::property(data, "Socket-Type").unwrap_or_default();
    if let Some(socket) = sockets.iter().find(|socket| socket.fits(&peer)) {
        return Ok(*socket);
    }
    Err(ZmtpError::WrongSocket(
        String::from_utf8_lossy(&peer[..peer.len().min(16)]).into_owned(),
    ))
}

/// What an ERROR command says, in at most 64 characters.
fn refused(data: &Bytes) -> ZmtpError {
    let reason = data.get(1..).unwrap_or_default();
    ZmtpError::Refused(
        String::from_utf8_lossy(reason)
            .chars()
            .filter(|c| !c.is_control())
            .take(64)
            .collect(),
    )
}

#[cfg(test)]
mod tests;
