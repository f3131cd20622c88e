//! A stream that is still read when it cannot be written any more.
//!
//! A server that refuses a long body answers before it has read it (a 413, say), and closes the
//! connection. The rest of the body then cannot be written, and the answer is there to be read. So
//! a failed write is no failure of the stream: what is written from then on is discarded, and
//! reading ends with the answer, or with the reason why there is none.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module.
pub(super) struct EarlyAnswerStream<S> {
    stream: S,
    /// The peer takes no more bytes.
    is_refused: bool,
}

impl<S: AsyncWrite + Unpin> EarlyAnswerStream<S> {
    pub(super) const fn new(stream: S) -> Self {
        Self {
            stream,
            is_refused: false,
        }
    }

    /// Writes by `write`, or discards `length` bytes.
    fn write_or_discard(
        &mut self,
        length: usize,
        write: impl FnOnce(Pin<&mut S>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if !self.is_refused {
            match write(Pin::new(&mut self.stream)) {
                Poll::Ready(Err(error)) if is_refusal(&error) => self.is_refused = true,
                written => return written,
            }
        }
        Poll::Ready(Ok(length))
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
    )
}

impl<S: AsyncRead + Unpin> AsyncRead for EarlyAnswerStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for EarlyAnswerStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write_or_discard(bytes.len(), |stream| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.write_or_discard(length, |stream| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.write_or_discard(0, |stream| stream.poll_flush(cx).map_ok(|()| 0));
        flushed.map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = self.write_or_discard(0, |stream| stream.poll_shutdown(cx).map_ok(|()| 0));
        shut.map_ok(|_| ())
    }
}
