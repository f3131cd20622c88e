//! The body of a request while a gateway sends it: from its messages to the body that is placed.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::{self, Receiver, Sender, error::SendError};

/// Pieces that wait to be read. The same task reads them, so that it needs few.
const WAITING: usize = 16;

/// Where the pieces of a body go. Dropped, it ends the body: a stream that breaks drops both ends.
pub(super) struct Upload(Sender<Bytes>);

/// The body as it is placed.
pub(super) struct UploadedBody {
    pieces: Receiver<Bytes>,
    /// No piece follows.
    has_ended: bool,
    /// In bytes, as the head states it.
    length: Option<u64>,
}

/// A body and where its pieces go. `length`: what the head states.
pub(super) fn upload(length: Option<u64>) -> (Upload, UploadedBody) {
    let (sender, pieces) = mpsc::channel(WAITING);
    let body = UploadedBody {
        pieces,
        has_ended: false,
        length,
    };
    (Upload(sender), body)
}

impl Upload {
    /// Waits until a piece can be taken. Returns whether one can be at all.
    pub(super) async fn has_room(&self) -> bool {
        self.0.reserve().await.is_ok()
    }

    /// The next piece, for which there is room. One that the request's reader does not want any
    /// more is dropped.
    pub(super) async fn push(&self, piece: Bytes) {
        if let Err(SendError(unread)) = self.0.send(piece).await {
            drop(unread);
        }
    }
}

impl Body for UploadedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = std::task::ready!(self.pieces.poll_recv(cx));
        self.has_ended = piece.is_none();
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, |length| {
            let mut hint = SizeHint::new();
            hint.set_lower(length);
            hint
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn pieces_come_in_order_and_the_end_of_the_upload_ends_the_body() {
        let (upload, body) = upload(None);
        let sent = async move {
            for piece in ["a", "b", "c"] {
                assert!(upload.has_room().await);
                upload.push(Bytes::from_static(piece.as_bytes())).await;
            }
        };
        let (body, ()) = tokio::join!(body.collect(), sent);
        assert_eq!(body.expect("infallible").to_bytes(), "abc");
    }

    #[tokio::test]
    async fn a_body_that_is_not_read_any_more_takes_no_piece() {
        let (upload, body) = upload(None);
        drop(body);
        assert!(!upload.has_room().await);
        upload.push(Bytes::from_static(b"late")).await;
    }
}
