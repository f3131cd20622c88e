//! A client's socket, as hyper reads and writes it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{client_requests::ClientRequests, client_stream::ClientStream};
use crate::tcp::VanishedPeer;

/// Notes for the connection's requests what the client sends, and leaves them the socket.
pub(super) struct ClientSocket {
    /// Present until it is dropped.
    stream: Option<ClientStream>,
    requests: ClientRequests,
}

impl ClientSocket {
    pub(super) fn new(stream: ClientStream, requests: ClientRequests) -> Self {
        let stream = Some(stream);
        Self { stream, requests }
    }

    fn stream(&mut self) -> Pin<&mut ClientStream> {
        Pin::new(
            self.stream
                .as_mut()
                .expect("it is taken when this is dropped"),
        )
    }
}

/// Sets a client's socket up. `send_timeout` is how long the client may take nothing of what is
/// there.
pub(super) fn prepare(stream: &TcpStream, send_timeout: Duration) -> io::Result<()> {
    let vanished = VanishedPeer {
        keep_alive: Duration::from_secs(60),
        probe: Duration::from_secs(15),
        probes: 4,
        unacknowledged: send_timeout,
    };
    vanished.prepare(stream)
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = self.stream().poll_read(cx, buf);
        let received = &buf.filled()[before..];
        if !received.is_empty() {
            self.requests.received(received);
        }
        polled
    }
}

impl AsyncWrite for ClientSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}

impl Drop for ClientSocket {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.requests.leave(stream.into_socket());
        }
    }
}
