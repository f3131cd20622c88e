//! Receiving a request: the bounds of its head and its body.

use std::{ops::RangeInclusive, time::Duration};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::timeout_at;

use super::{
    admission::AdmissionPermit, fields::FieldScanner, local_reply::LocalReply,
    request_body::RequestBody, upload_pace::UploadPace,
};

/// Limit of the bytes of a head.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// A piece of at least this length is kept as it is. Shorter ones are copied together: each keeps
/// the whole buffer in memory that the server read it into.
const WHOLE_PIECE: usize = 16 << 10;

/// Sizes of the buffers into which short pieces are copied.
const COPIES: RangeInclusive<usize> = 4 << 10..=64 << 10;

/// Reads the whole body, in bounded memory, and counts its bytes in `permit`. Each piece is scanned
/// when it arrives. What cannot be scanned is received to its end, so that the connection stays
/// usable, and not kept.
///
/// `limit` is in bytes; `patience` is how long the client may pause, and it must keep the
/// [`UploadPace`].
pub(crate) async fn read_body<B>(
    mut body: B,
    limit: u64,
    patience: Duration,
    permit: &mut AdmissionPermit,
    mut scanner: Option<&mut FieldScanner>,
) -> Result<RequestBody, LocalReply>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.size_hint().lower() > limit {
        return Err(LocalReply::TooLarge(limit));
    }
    let pace = UploadPace::begin(patience);
    let mut received = ReceivedBody::default();
    let (mut total, mut is_kept) = (0, true);
    while !body.is_end_stream() {
        let frame = timeout_at(pace.due(total), body.frame())
            .await
            .map_err(|_| LocalReply::SlowClient)?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| LocalReply::BadBody("the body broke off".to_owned()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        total += data.len() as u64;
        if total > limit {
            return Err(LocalReply::TooLarge(limit));
        }
        if let (true, Some(scanner)) = (is_kept, &mut scanner) {
            is_kept = scanner.scan(&data);
        }
        if !is_kept {
            received = ReceivedBody::default();
            permit.release_bytes();
        } else if !permit.reserve_bytes(received.push(data, body.size_hint().exact())) {
            return Err(LocalReply::Overloaded);
        }
    }
    Ok(received.complete())
}

/// A body while it arrives.
#[derive(Default)]
struct ReceivedBody {
    body: RequestBody,
    /// Short pieces, joined.
    copies: BytesMut,
}

impl ReceivedBody {
    /// Appends a piece; returns how many bytes of memory it takes. `rest` is the number of bytes
    /// that follow, if it is known.
    fn push(&mut self, piece: Bytes, rest: Option<u64>) -> u64 {
        let length = self.body.len() + self.copies.len();
        if length == 0 || piece.len() >= WHOLE_PIECE {
            let taken = piece.len() as u64;
            self.keep_copies();
            self.body.push(piece);
            return taken;
        }
        let room = self.copies.capacity() - self.copies.len();
        let (fitting, others) = piece.split_at(piece.len().min(room));
        self.copies.extend_from_slice(fitting);
        if others.is_empty() {
            return 0;
        }
        self.keep_copies();
        // As much again as there is already, because the length is only a statement of the client.
        let rest = rest.and_then(|rest| usize::try_from(rest).ok());
        let capacity = length.clamp(*COPIES.start(), *COPIES.end());
        let capacity = capacity.min(rest.map_or(usize::MAX, |rest| others.len() + rest));
        self.copies = BytesMut::with_capacity(capacity.max(others.len()));
        self.copies.extend_from_slice(others);
        self.copies.capacity() as u64
    }

    fn keep_copies(&mut self) {
        if !self.copies.is_empty() {
            self.body.push(self.copies.split().freeze());
        }
    }

    fn complete(mut self) -> RequestBody {
        self.keep_copies();
        self.body
    }
}

/// Rejects a head that is too large, names and values together.
pub(crate) fn check_head(headers: &HeaderMap) -> Result<(), LocalReply> {
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if bytes > MAX_HEAD_BYTES {
        Err(LocalReply::HeadTooLarge(MAX_HEAD_BYTES))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;
    use crate::request::{admission::AdmissionLimit, request_body::BodySpan};

    fn permit() -> AdmissionPermit {
        AdmissionLimit::new(None).try_acquire(1).expect("free")
    }

    fn in_pieces(
        pieces: impl IntoIterator<Item = Bytes>,
    ) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin {
        let frames = pieces.into_iter().map(|piece| Ok(Frame::data(piece)));
        StreamBody::new(futures::stream::iter(frames.collect::<Vec<_>>()))
    }

    async fn read<B>(body: B, limit: u64) -> Result<RequestBody, LocalReply>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        read_body(body, limit, Duration::from_secs(30), &mut permit(), None).await
    }

    #[tokio::test]
    async fn a_body_in_one_piece_is_not_copied() {
        let bytes = Bytes::from(vec![7u8; 1000]);
        let body = read(Full::new(bytes.clone()), 1000).await.expect("fits");
        assert_eq!(body.pieces()[0].as_ptr(), bytes.as_ptr());
    }

    #[tokio::test]
    async fn pieces_are_joined_and_too_many_are_rejected() {
        let pieces = || in_pieces((0..10u8).map(|i| Bytes::from(vec![i; 10])));
        let body = read(pieces(), 100).await.expect("fits");
        assert_eq!((body.len(), body.byte(99)), (100, Some(9)));
        assert_eq!(
            read(pieces(), 99).await.err(),
            Some(LocalReply::TooLarge(99))
        );
        assert_eq!(
            read(Full::new(Bytes::from(vec![0; 11])), 10).await.err(),
            Some(LocalReply::TooLarge(10))
        );
    }

    #[tokio::test]
    async fn long_pieces_are_not_copied_and_short_ones_take_little_more_than_their_bytes() {
        let long = Bytes::from(vec![1; 100_000]);
        let short = || (0..50_000u32).map(|at| Bytes::from(vec![at as u8]));
        let all = || short().chain([long.clone()]).chain(short());
        let mut permit = permit();
        let body = read_body(
            in_pieces(all()),
            1 << 20,
            Duration::from_secs(30),
            &mut permit,
            None,
        )
        .await
        .expect("fits");
        let whole = BodySpan {
            start: 0,
            end: body.len(),
        };
        assert_eq!(body.contiguous(whole), all().collect::<Vec<_>>().concat());
        let pieces = body.pieces();
        assert!(pieces.iter().any(|piece| piece.as_ptr() == long.as_ptr()));
        assert!(pieces.len() < 15, "{} pieces", pieces.len());
        let counted = permit.bytes();
        assert!((200_000..280_000).contains(&counted), "{counted} bytes");
    }

    #[tokio::test]
    async fn a_body_that_cannot_be_scanned_is_received_and_not_kept() {
        let (mut permit, mut scanner) = (permit(), FieldScanner::default());
        let pieces = ["{\"a\":1,", "oops", "\"b\":2}"].map(Bytes::from);
        let body = read_body(
            in_pieces(pieces),
            100,
            Duration::from_secs(30),
            &mut permit,
            Some(&mut scanner),
        )
        .await
        .expect("received");
        assert_eq!((body.len(), permit.bytes()), (0, 0));
        assert!(scanner.finish(&body).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stalls_is_timed_out() {
        let body = StreamBody::new(futures::stream::pending::<
            Result<Frame<Bytes>, std::io::Error>,
        >());
        assert_eq!(read(body, 10).await.err(), Some(LocalReply::SlowClient));
    }
}
