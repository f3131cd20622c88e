//! Answers that a decode engine gave up.
//!
//! vllm-ascend ends an answer whose KV cache it had to free with `"stop_reason": "recomputed"` and
//! an ordinary `finish_reason`, and expects its proxy to send the request again. A client would
//! take what came so far for the whole answer.
//!
//! Looked for in the answers of decode legs only: elsewhere it is a stop string of the client's.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use smallvec::SmallVec;

/// The value, as JSON has it. Inside a text its quotes are escaped.
const VALUE: &[u8] = b"\"recomputed\"";
const NAME: &[u8] = b"\"stop_reason\"";

/// Made once: there are two searches for each piece of an answer.
static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(VALUE));

/// Bytes of the name, of the value, and of what is between them, that may be divided between two
/// pieces.
const KEPT: usize = NAME.len() + VALUE.len() + 8;

/// Looks for the mark in the pieces of one answer.
#[derive(Debug, Default)]
pub(super) struct RecomputedScan {
    /// The end of the piece before.
    end: SmallVec<[u8; KEPT]>,
}

impl RecomputedScan {
    /// Whether the answer was given up, by its next piece.
    pub(super) fn finds(&mut self, piece: &[u8]) -> bool {
        let begin = &piece[..piece.len().min(KEPT)];
        let mut border = SmallVec::<[u8; 2 * KEPT]>::from_slice(&self.end);
        border.extend_from_slice(begin);
        if is_in(&border) || is_in(piece) {
            return true;
        }
        let end = if piece.len() >= KEPT { piece } else { &border };
        self.end = SmallVec::from_slice(&end[end.len().saturating_sub(KEPT)..]);
        false
    }
}

fn is_in(text: &[u8]) -> bool {
    FINDER.find_iter(text).any(|at| {
        let before = text[..at].trim_ascii_end();
        let name = before.strip_suffix(b":").map(<[u8]>::trim_ascii_end);
        name.is_some_and(|name| name.ends_with(NAME))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNK: &str = r#"data: {"choices":[{"index":0,"text":"","finish_reason":"stop","stop_reason": "recomputed"}]}"#;

    fn found(pieces: &[&[u8]]) -> bool {
        let mut scan = RecomputedScan::default();
        pieces.iter().any(|piece| scan.finds(piece))
    }

    #[test]
    fn other_reasons_and_texts_are_no_mark() {
        for text in [
            r#"{"stop_reason":null,"text":"recomputed"}"#,
            r#"{"text":"\"stop_reason\":\"recomputed\""}"#,
            r#"{"stop_reason":"recomputed!"}"#,
        ] {
            assert!(!found(&[text.as_bytes()]), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_mark_is_found_wherever_pieces_end(cuts in prop::collection::vec(0..CHUNK.len(), 0..6)) {
            let mut cuts = cuts;
            cuts.extend([0, CHUNK.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &CHUNK.as_bytes()[cut[0]..cut[1]]);
            prop_assert!(found(&pieces.collect::<Vec<_>>()));
        }
    }
}
