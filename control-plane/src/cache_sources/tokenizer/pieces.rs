//! Cuts a prompt where its tokens can be made piece by piece, so that a conversation's old turns
//! are made only once.
//!
//! ```text
//!   <|im_start|>system\n…<|im_end|>\n<|im_start|>user\n…<|im_end|>\n<|im_start|>assistant\n
//!   └─────────── a piece ──────────┘└──┘ and so on: each begins with a special token
//! ```
//!
//! A tokenizer first finds its special tokens in the text, leftmost and longest first, and makes
//! tokens of what is between them as if nothing else were there. So the tokens of a text are those
//! of its pieces, one after the other. Not every special token is fit to begin a piece: one that
//! takes white space before it, or that is found by what stands beside it, would be found
//! differently at the beginning of a text. Those stay inside pieces.

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::{AddedToken, Tokenizer};

/// Where a tokenizer's prompts may be cut.
#[derive(Debug)]
pub(super) struct Cuts {
    /// Finds special tokens as the tokenizer does.
    finder: AhoCorasick,
    /// Whether each of them may begin a piece.
    begins: Vec<bool>,
}

// === Cuts ===

impl Cuts {
    /// By the special tokens of `tokenizer`; none when it has none that text can be cut at.
    pub(super) fn of(tokenizer: &Tokenizer) -> Option<Self> {
        let added = tokenizer.get_added_tokens_decoder();
        let found: Vec<&AddedToken> = added.values().filter(|token| !token.normalized).collect();
        let begins: Vec<bool> = found.iter().map(|token| may_begin(token)).collect();
        if !begins.contains(&true) {
            return None;
        }
        let contents = found.iter().map(|token| &token.content);
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(contents)
            .ok()?;
        Some(Self { finder, begins })
    }

    /// The pieces of `text`, in order; together they are the whole of it.
    pub(super) fn pieces<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        let starts = self
            .finder
            .find_iter(text)
            .filter(|found| self.begins[found.pattern().as_usize()]);
        let ends = starts
            .map(|found| found.start())
            .filter(|start| *start > 0)
            .chain([text.len()]);
        let mut from = 0;
        ends.map(move |end| {
            let piece = &text[from..end];
            from = end;
            piece
        })
    }
}

fn may_begin(token: &AddedToken) -> bool {
    let first = token.content.chars().next();
    let stands_alone = first
        .is_some_and(|first| !first.is_alphanumeric() && !first.is_whitespace() && first != '_');
    stands_alone && !token.lstrip && !token.single_word
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::cache_sources::tokenizer::fixture;

    #[test]
    fn a_piece_begins_with_each_special_token() {
        let cuts = Cuts::of(&fixture::tokenizer()).expect("it has special tokens");
        let text = "so<|im_start|>user\nhi<|im_end|>\n<|im_start|>";
        let pieces: Vec<&str> = cuts.pieces(text).collect();
        assert_eq!(
            pieces,
            ["so", "<|im_start|>user\nhi", "<|im_end|>\n", "<|im_start|>"]
        );
        assert_eq!(cuts.pieces("").collect::<Vec<_>>(), [""]);
    }

    proptest! {
        #[test]
        fn the_tokens_of_a_text_are_those_of_its_pieces(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("<|im_start|>".to_owned()), Just("<|im_end|>".to_owned()), Just("<mask>".to_owned()),
                    Just("word".to_owned()), Just("<|im_start".to_owned()), "[ \n\ta-z0-9<|>_']{0,6}", "\\PC{0,5}",
                ],
                0..12,
            ),
        ) {
            static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(fixture::tokenizer);
            let cuts = Cuts::of(&TOKENIZER).expect("it has special tokens");
            let text = parts.concat();
            let ids = |text: &str| TOKENIZER.encode_fast(text, false).expect("any text").get_ids().to_vec();
            let pieces: Vec<u32> = cuts.pieces(&text).flat_map(ids).collect();
            prop_assert_eq!(pieces, ids(&text), "{:?}", text);
        }
    }
}
