//! Cached tokens in the usage of a pair's answer.
//!
//! A decode endpoint has all of a prompt from the prefill endpoint, and may report all of it as
//! cached. What the client pays for is what the prefill endpoint found in its cache. So the number
//! is replaced by that, in the same number of bytes: it has at most as many digits, and JSON allows
//! spaces behind it. Nothing is held back for it: a number that is split between two pieces of the
//! answer stays as it is.

use bytes::{Bytes, BytesMut};
use memchr::memmem;

/// The fields that have it: of chat, completions and responses, and of messages. Inside JSON
/// strings their quotes are escaped, so that no text can imitate them.
const NAMES: [&[u8]; 2] = [b"\"cached_tokens\"", b"\"cache_read_input_tokens\""];

/// A piece of an answer with `tokens` in place of each number of cached tokens; `None` if it is
/// as it was.
pub(super) fn restated(piece: &Bytes, tokens: u32) -> Option<Bytes> {
    let mut changed: Option<BytesMut> = None;
    let text = tokens.to_string();
    for name in NAMES {
        for at in memmem::find_iter(piece, name) {
            let Some((start, end)) = number(piece, at + name.len()) else {
                continue;
            };
            if text.len() > end - start {
                continue;
            }
            let changed = changed.get_or_insert_with(|| BytesMut::from(&piece[..]));
            let (digits, spaces) = changed[start..end].split_at_mut(text.len());
            digits.copy_from_slice(text.as_bytes());
            spaces.fill(b' ');
        }
    }
    changed.map(BytesMut::freeze)
}

/// Where the number is that is the value of a field, whose name ends there. Its end is in the
/// piece, too.
fn number(piece: &[u8], name_end: usize) -> Option<(usize, usize)> {
    let mut at = name_end;
    let skip_spaces = |at: &mut usize| {
        while piece.get(*at).is_some_and(u8::is_ascii_whitespace) {
            *at += 1;
        }
    };
    skip_spaces(&mut at);
    if piece.get(at) != Some(&b':') {
        return None;
    }
    at += 1;
    skip_spaces(&mut at);
    let digits = piece[at..].iter().take_while(|byte| byte.is_ascii_digit());
    let end = at + digits.count();
    let is_whole = piece
        .get(end)
        .is_some_and(|byte| matches!(byte, b',' | b'}' | b' '));
    (end > at && is_whole).then_some((at, end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn with(piece: &str, tokens: u32) -> String {
        let piece = Bytes::copy_from_slice(piece.as_bytes());
        let restated = restated(&piece, tokens).unwrap_or(piece);
        String::from_utf8(restated.to_vec()).expect("UTF-8")
    }

    #[test]
    fn the_number_is_replaced_in_as_many_bytes() {
        let chat = r#"{"usage":{"prompt_tokens":1000,"prompt_tokens_details":{"cached_tokens":1000},"x":1}}"#;
        assert_eq!(
            with(chat, 64),
            chat.replace("\"cached_tokens\":1000", "\"cached_tokens\":64  ")
        );
        assert_eq!(
            with(r#"{"input_tokens_details": {"cached_tokens" : 99 }}"#, 0),
            r#"{"input_tokens_details": {"cached_tokens" : 0  }}"#
        );
        let messages = "event: message_start\ndata: {\"usage\":{\"cache_read_input_tokens\":512}}";
        assert_eq!(with(messages, 16), messages.replace("512", "16 "));
    }

    #[test]
    fn what_is_no_whole_number_or_too_short_stays() {
        for other in [
            r#"{"cached_tokens":null}"#,
            r#"{"cached_tokens":-1}"#,
            r#"{"cached_tokens":1.5}"#,
            r#"{"cached_tokens":"#,
            r#"{"cached_tokens":12"#,
            r#"{"cached_tokens":5}"#,
            r#"{"content":"\"cached_tokens\":1000,"}"#,
            r#"data: {"choices":[{"delta":{"content":"cached_tokens"}}]}"#,
        ] {
            assert_eq!(with(other, 64), other);
        }
    }

    proptest! {
        #[test]
        fn nothing_else_of_a_document_changes(
            prompt in 0..1_000_000u32,
            cached in 0..1_000_000u32,
            restated in 0..1_000_000u32,
            text in "[a-z\"\\\\:{}0-9]{0,20}",
        ) {
            let document = serde_json::json!({
                "text": text,
                "usage": {"prompt_tokens": prompt, "prompt_tokens_details": {"cached_tokens": cached}},
            });
            let before = document.to_string();
            let after = with(&before, restated);
            prop_assert_eq!(after.len(), before.len());
            let mut expected = document;
            if restated.to_string().len() <= cached.to_string().len() {
                expected["usage"]["prompt_tokens_details"]["cached_tokens"] = restated.into();
            }
            prop_assert_eq!(serde_json::from_str::<Value>(&after).expect("JSON"), expected);
        }
    }
}
