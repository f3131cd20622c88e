//! The bytes of a request's body, in the pieces in which they arrived. They are not joined: spans
//! of them are read across pieces, and only what needs contiguous bytes copies its span.

use bytes::{Bytes, BytesMut};
use smallvec::{SmallVec, smallvec};

/// A body that has arrived. Clones share its bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestBody {
    /// None of them is empty.
    pieces: SmallVec<[Bytes; 1]>,
    len: usize,
}

/// Positions in a body: from `start` up to, and without, `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BodySpan {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl RequestBody {
    /// In bytes.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Appends bytes, without a copy.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push(piece);
        }
    }

    pub(crate) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// The byte at a position.
    pub(crate) fn byte(&self, at: usize) -> Option<u8> {
        let mut bytes = self.slices(BodySpan {
            start: at,
            end: at + 1,
        });
        bytes.next().and_then(|slice| slice.first().copied())
    }

    /// The bytes of a span, piece by piece. What is beyond the body's end is left out.
    pub(crate) fn slices(&self, span: BodySpan) -> impl Iterator<Item = &[u8]> + Clone {
        self.cuts(span)
            .map(|(piece, BodySpan { start, end })| &piece[start..end])
    }

    /// The same as [`Self::slices`], shared.
    pub(crate) fn shared(&self, span: BodySpan) -> impl Iterator<Item = Bytes> {
        self.cuts(span)
            .map(|(piece, BodySpan { start, end })| piece.slice(start..end))
    }

    /// The bytes of a span in one piece: copied only if the span crosses a border of pieces.
    pub(crate) fn contiguous(&self, span: BodySpan) -> Bytes {
        let mut cuts = self.shared(span);
        let first = cuts.next().unwrap_or_default();
        let Some(second) = cuts.next() else {
            return first;
        };
        let mut joined = BytesMut::with_capacity(span.len());
        joined.extend_from_slice(&first);
        joined.extend_from_slice(&second);
        cuts.for_each(|cut| joined.extend_from_slice(&cut));
        joined.freeze()
    }

    /// The pieces that a span touches, each with the part of it that is in the span.
    fn cuts(&self, span: BodySpan) -> impl Iterator<Item = (&Bytes, BodySpan)> + Clone {
        let mut begin = 0;
        let placed = self.pieces.iter().map(move |piece| {
            let at = begin;
            begin += piece.len();
            (at, piece)
        });
        placed
            .skip_while(move |(at, piece)| at + piece.len() <= span.start)
            .take_while(move |(at, _)| *at < span.end)
            .map(move |(at, piece)| {
                let cut = BodySpan {
                    start: span.start.saturating_sub(at),
                    end: piece.len().min(span.end - at),
                };
                (piece, cut)
            })
            .filter(|(_, cut)| cut.start < cut.end)
    }
}

impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        Self {
            len: bytes.len(),
            pieces: smallvec![bytes],
        }
    }
}

impl BodySpan {
    pub(crate) const fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Without its first and its last byte.
    pub(crate) const fn inside(self) -> Self {
        Self {
            start: self.start + 1,
            end: self.end.saturating_sub(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;

    #[test]
    fn a_span_inside_a_piece_is_not_copied() {
        let whole = Bytes::from_static(b"0123456789");
        let mut body = RequestBody::from(whole.slice(..6));
        body.push(whole.slice(6..));
        let span = body.contiguous(BodySpan { start: 7, end: 9 });
        assert_eq!(
            (span.as_ptr(), &span[..]),
            (whole[7..].as_ptr(), &b"78"[..])
        );
        let across = body.contiguous(BodySpan { start: 4, end: 8 });
        assert_eq!(across, "4567");
    }

    proptest! {
        #[test]
        fn a_span_of_pieces_is_the_span_of_the_whole(
            whole in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(any::<Index>(), 0..6),
            borders in any::<[Index; 2]>(),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(whole.len());
            let mut body = RequestBody::default();
            let mut begin = 0;
            for cut in cuts {
                body.push(Bytes::copy_from_slice(&whole[begin..cut]));
                begin = cut;
            }
            let mut borders = borders.map(|border| border.index(whole.len() + 1));
            borders.sort_unstable();
            let [start, end] = borders;
            let span = BodySpan { start, end };
            prop_assert_eq!(body.len(), whole.len());
            prop_assert_eq!(&body.contiguous(span)[..], &whole[start..end]);
            prop_assert_eq!(body.slices(span).collect::<Vec<_>>().concat(), &whole[start..end]);
            prop_assert_eq!(body.byte(start), whole.get(start).copied());
            let beyond = BodySpan { start, end: whole.len() + 7 };
            prop_assert_eq!(&body.contiguous(beyond)[..], &whole[start..]);
        }
    }
}
