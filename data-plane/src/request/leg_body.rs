//! The body of one leg: the client's bytes, whole, or as slices of them between edits.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::request_body::RequestBody;

/// A request body for one endpoint. Pieces of bytes, so that it can be sent again after a failed
/// attempt without a copy.
#[derive(Clone, Debug, Default)]
pub(crate) struct LegBody {
    first: Option<Bytes>,
    rest: VecDeque<Bytes>,
}

impl LegBody {
    /// All bytes together.
    pub(crate) fn len(&self) -> u64 {
        self.first
            .iter()
            .chain(&self.rest)
            .map(|piece| piece.len() as u64)
            .sum()
    }

    /// Its bytes, in the pieces in which they are sent.
    pub(crate) fn into_pieces(self) -> Vec<Bytes> {
        self.first.into_iter().chain(self.rest).collect()
    }
}

impl From<&RequestBody> for LegBody {
    fn from(body: &RequestBody) -> Self {
        let mut pieces = body.pieces().iter().cloned();
        Self {
            first: pieces.next(),
            rest: pieces.collect(),
        }
    }
}

impl From<Vec<Bytes>> for LegBody {
    fn from(pieces: Vec<Bytes>) -> Self {
        let mut rest: VecDeque<Bytes> = pieces
            .into_iter()
            .filter(|piece| !piece.is_empty())
            .collect();
        Self {
            first: rest.pop_front(),
            rest,
        }
    }
}

impl Body for LegBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.first.take().or_else(|| self.rest.pop_front());
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn slices_arrive_in_order_and_their_length_is_known_before() {
        let pieces = vec![
            Bytes::from_static(b"{"),
            Bytes::new(),
            Bytes::from_static(b"\"a\":1"),
            Bytes::from_static(b"}"),
        ];
        let body = LegBody::from(pieces);
        assert_eq!(body.size_hint().exact(), Some(7));
        let again = body.clone();
        assert_eq!(
            body.collect().await.expect("infallible").to_bytes(),
            "{\"a\":1}"
        );
        assert_eq!(
            again.collect().await.expect("infallible").to_bytes(),
            "{\"a\":1}"
        );
    }

    #[test]
    fn an_empty_body_has_ended() {
        assert!(LegBody::from(&RequestBody::default()).is_end_stream());
    }
}
