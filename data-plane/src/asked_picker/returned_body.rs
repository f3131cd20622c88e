//! The body of a request as a picker returns it: usually what it was sent, which is not kept twice.

use bytes::Bytes;

/// A body while it is returned.
pub(super) struct ReturnedBody {
    /// What was sent.
    own: Vec<Bytes>,
    /// Bytes so far that are equal to those.
    equal: usize,
    /// All of it, once a byte differs.
    changed: Option<Vec<Bytes>>,
    /// Bytes so far.
    length: usize,
    /// The most that is taken.
    limit: usize,
}

/// More was returned than is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReturnedTooMuch;

impl ReturnedBody {
    /// Nothing is returned yet. `own`: what was sent.
    pub(super) fn of(own: Vec<Bytes>, limit: usize) -> Self {
        Self {
            own,
            equal: 0,
            changed: None,
            length: 0,
            limit,
        }
    }

    /// The next piece.
    ///
    /// # Errors
    /// When it is too much.
    pub(super) fn push(&mut self, piece: Bytes) -> Result<(), ReturnedTooMuch> {
        self.length += piece.len();
        if self.length > self.limit {
            return Err(ReturnedTooMuch);
        }
        if self.changed.is_none() {
            if self.continues_with(&piece) {
                self.equal += piece.len();
                return Ok(());
            }
            self.changed = Some(self.beginning());
        }
        if let Some(changed) = &mut self.changed
            && !piece.is_empty()
        {
            changed.push(piece);
        }
        Ok(())
    }

    /// All of the body, in place of what was returned before.
    ///
    /// # Errors
    /// When it is too much.
    pub(super) fn replace(&mut self, body: Bytes) -> Result<(), ReturnedTooMuch> {
        (self.equal, self.length, self.changed) = (0, 0, None);
        self.push(body)
    }

    /// It stays as it was sent, whatever was returned before.
    pub(super) fn keep(&mut self) {
        let sent = self.own.iter().map(Bytes::len).sum();
        (self.equal, self.length, self.changed) = (sent, sent, None);
    }

    /// Whether nothing that was returned differs so far.
    pub(super) const fn is_unchanged(&self) -> bool {
        self.changed.is_none()
    }

    /// It is complete: the pieces of another body, if it is one.
    pub(super) fn complete(mut self) -> Option<Vec<Bytes>> {
        let sent = self.own.iter().map(Bytes::len).sum::<usize>();
        if self.changed.is_none() && self.equal < sent {
            return Some(self.beginning());
        }
        self.changed.take()
    }

    /// Whether the body that was sent goes on like this.
    fn continues_with(&self, piece: &[u8]) -> bool {
        let (mut skipped, mut rest) = (self.equal, piece);
        for own in &self.own {
            if rest.is_empty() {
                break;
            }
            if skipped >= own.len() {
                skipped -= own.len();
                continue;
            }
            let own = &own[skipped..];
            skipped = 0;
            let common = own.len().min(rest.len());
            if own[..common] != rest[..common] {
                return false;
            }
            rest = &rest[common..];
        }
        rest.is_empty()
    }

    /// What is equal so far, without a copy.
    fn beginning(&self) -> Vec<Bytes> {
        let mut left = self.equal;
        let mut pieces = Vec::new();
        for own in &self.own {
            let taken = own.len().min(left);
            if taken == 0 {
                break;
            }
            pieces.push(own.slice(..taken));
            left -= taken;
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(body: &[u8], size: usize) -> Vec<Bytes> {
        body.chunks(size).map(Bytes::copy_from_slice).collect()
    }

    #[test]
    fn more_than_the_limit_is_not_taken() {
        let mut returned = ReturnedBody::of(Vec::new(), 3);
        assert_eq!(returned.push(Bytes::from_static(b"abc")), Ok(()));
        assert_eq!(
            returned.push(Bytes::from_static(b"d")),
            Err(ReturnedTooMuch)
        );
        assert_eq!(returned.replace(Bytes::from_static(b"abc")), Ok(()));
    }

    proptest! {
        #[test]
        fn what_was_sent_is_no_other_body_however_it_is_cut(
            body in proptest::collection::vec(any::<u8>(), 0..99),
            sent in 1..20usize,
            returned in 1..20usize,
        ) {
            let mut other = ReturnedBody::of(pieces(&body, sent), 200);
            for piece in pieces(&body, returned) {
                prop_assert_eq!(other.push(piece), Ok(()));
                prop_assert!(other.is_unchanged());
            }
            prop_assert_eq!(other.complete(), None);
        }

        #[test]
        fn another_body_is_what_was_returned(
            own in proptest::collection::vec(0..2u8, 0..9),
            returned in proptest::collection::vec(0..2u8, 0..9),
            size in 1..5usize,
        ) {
            let mut other = ReturnedBody::of(pieces(&own, 2), 200);
            for piece in pieces(&returned, size) {
                prop_assert_eq!(other.push(piece), Ok(()));
            }
            match other.complete() {
                None => prop_assert_eq!(own, returned),
                Some(body) => {
                    prop_assert_ne!(&own, &returned);
                    prop_assert_eq!(body.concat(), returned);
                }
            }
        }
    }
}
