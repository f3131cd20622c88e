//! Receiving a request: the bounds of its head and its body.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::timeout_at;

use crate::request::{
    admission::AdmissionPermit, local_reply::LocalReply, upload_pace::UploadPace,
};

/// Limit of the bytes of a head.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Reads the whole body, in bounded memory, and counts its bytes in `permit`.
///
/// `limit` is in bytes; `patience` is how long the client may pause, and it must keep the
/// [`UploadPace`].
pub(crate) async fn read_body<B>(
    mut body: B,
    limit: u64,
    patience: Duration,
    permit: &mut AdmissionPermit,
) -> Result<Bytes, LocalReply>
where
    B: Body<Data = Bytes> + Unpin,
{
    let hint = body.size_hint();
    if hint.lower() > limit {
        return Err(LocalReply::TooLarge(limit));
    }
    let pace = UploadPace::begin(patience);
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let received = (first.len() + rest.len()) as u64;
        let frame = timeout_at(pace.due(received), body.frame())
            .await
            .map_err(|_| LocalReply::SlowClient)?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| LocalReply::BadBody("the body broke off".to_owned()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if received + data.len() as u64 > limit {
            return Err(LocalReply::TooLarge(limit));
        }
        if !permit.reserve_bytes(data.len() as u64) {
            return Err(LocalReply::Overloaded);
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            // A second piece: from here on the pieces are copied together. The client chooses the
            // hint, so it is only trusted up to a bound.
            rest.reserve(
                usize::try_from(hint.lower())
                    .unwrap_or(usize::MAX)
                    .min(1 << 20),
            );
            rest.extend_from_slice(&first);
            first = Bytes::new();
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() {
        first
    } else {
        rest.freeze()
    })
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
    use std::collections::VecDeque;

    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;
    use crate::request::admission::AdmissionLimit;

    fn permit() -> AdmissionPermit {
        AdmissionLimit::default().try_acquire(1).expect("free")
    }

    #[tokio::test]
    async fn a_body_in_one_piece_is_not_copied() {
        let bytes = Bytes::from(vec![7u8; 1000]);
        let read = read_body(
            Full::new(bytes.clone()),
            1000,
            Duration::from_secs(1),
            &mut permit(),
        )
        .await
        .expect("fits");
        assert_eq!(read.as_ptr(), bytes.as_ptr());
    }

    #[tokio::test]
    async fn pieces_are_joined_and_too_many_are_rejected() {
        let pieces = || {
            let frames: VecDeque<_> = (0..10u8)
                .map(|i| Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![i; 10]))))
                .collect();
            StreamBody::new(futures::stream::iter(frames))
        };
        let read = read_body(pieces(), 100, Duration::from_secs(1), &mut permit())
            .await
            .expect("fits");
        assert_eq!((read.len(), read[99]), (100, 9));
        assert_eq!(
            read_body(pieces(), 99, Duration::from_secs(1), &mut permit()).await,
            Err(LocalReply::TooLarge(99))
        );
        assert_eq!(
            read_body(
                Full::new(Bytes::from(vec![0; 11])),
                10,
                Duration::ZERO,
                &mut permit()
            )
            .await,
            Err(LocalReply::TooLarge(10))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stalls_is_timed_out() {
        let body = StreamBody::new(futures::stream::pending::<
            Result<Frame<Bytes>, std::io::Error>,
        >());
        assert_eq!(
            read_body(body, 10, Duration::from_secs(30), &mut permit()).await,
            Err(LocalReply::SlowClient)
        );
    }
}
