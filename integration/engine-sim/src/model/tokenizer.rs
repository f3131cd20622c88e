//! A toy tokenizer: up to four bytes of whole characters make one token.
//!
//! Its point is to behave like a real one where routing cares: it is deterministic, it never
//! straddles a boundary between two segments (real templates put special tokens there), so that two
//! prompts with the same beginning have the same first tokens, and an answer that comes back as
//! history has the tokens with which it was generated. It has no vocabulary: a token id is its
//! bytes, packed little-endian, so `detokenize` inverts `tokenize` exactly for text without NUL.

/// Most bytes of text in one token.
const TOKEN_BYTES: usize = 4;

/// Appends the tokens of one segment of text.
pub(crate) fn tokenize_into(text: &str, tokens: &mut Vec<u32>) {
    tokens.reserve(text.len() / TOKEN_BYTES + 1);
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(piece_len(rest));
        tokens.push(pack(piece.as_bytes()));
        rest = after;
    }
}

/// The tokens of one segment of text.
pub(crate) fn tokenize(text: &str) -> Vec<u32> {
    let mut tokens = Vec::new();
    tokenize_into(text, &mut tokens);
    tokens
}

/// The text of these tokens; ids that no text produces become replacement characters.
pub(crate) fn detokenize(tokens: &[u32]) -> String {
    let mut bytes = Vec::with_capacity(tokens.len() * TOKEN_BYTES);
    for token in tokens {
        bytes.extend_from_slice(unpack(*token, &mut [0; TOKEN_BYTES]));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The largest number of whole characters that fit a token, in bytes: at least one, since a
/// character has at most four.
fn piece_len(text: &str) -> usize {
    let limit = text.len().min(TOKEN_BYTES);
    (1..=limit)
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(limit)
}

fn pack(piece: &[u8]) -> u32 {
    let mut bytes = [0; TOKEN_BYTES];
    bytes[..piece.len()].copy_from_slice(piece);
    u32::from_le_bytes(bytes)
}

fn unpack(token: u32, bytes: &mut [u8; TOKEN_BYTES]) -> &[u8] {
    *bytes = token.to_le_bytes();
    let used = TOKEN_BYTES - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    &bytes[..used.max(1)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_is_four_bytes_of_text() {
        assert_eq!(tokenize("hello world").len(), 3);
        assert_eq!(tokenize("日本語").len(), 3, "a character is never cut");
        assert!(tokenize("").is_empty());
    }

    proptest! {
        #[test]
        fn detokenize_inverts_tokenize(text in "[^\0]{0,200}") {
            prop_assert_eq!(detokenize(&tokenize(&text)), text);
        }

        #[test]
        fn texts_with_one_beginning_share_its_tokens(head in "[ -~]{0,100}", a in "[ -~]{0,20}", b in "[ -~]{0,20}") {
            let (left, right) = (tokenize(&format!("{head}{a}")), tokenize(&format!("{head}{b}")));
            let whole = head.len() / TOKEN_BYTES;
            prop_assert_eq!(&left[..whole], &right[..whole]);
        }

        #[test]
        fn any_ids_detokenize_to_some_text(tokens in proptest::collection::vec(any::<u32>(), 0..50)) {
            prop_assert!(!tokens.is_empty() || detokenize(&tokens).is_empty());
        }
    }
}
