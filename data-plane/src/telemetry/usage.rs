//! What an answer says it used, read in passing from the bytes that go by.
//!
//! Engines say it near the end: in the last event of a stream, or the last fields of a JSON body. So a few last pieces
//! are kept (reference counts, no copy) and read once, when the answer is over. Anthropic's streams say it in two
//! places, so their first piece is kept too, and of every figure the larger counts.

use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;

/// Pieces kept from the end of an answer.
const KEPT: usize = 4;

/// No more than this is searched: what is said, is said near the end.
const TAIL: usize = 16 << 10;

/// How far into an answer its id is looked for.
const HEAD: usize = 2 << 10;

/// Token counts of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenUsage {
    pub(crate) prompt_tokens: u32,
    pub(crate) completion_tokens: u32,
    /// Prompt tokens that the engine found in its KV cache; `None` when it did not say.
    pub(crate) cached_tokens: Option<u32>,
}

/// The pieces of one answer that are worth reading.
#[derive(Debug, Default)]
pub(crate) struct UsageTap {
    first: Option<Bytes>,
    last: [Option<Bytes>; KEPT],
    next: usize,
}

impl UsageTap {
    /// A piece goes by.
    pub(crate) fn piece(&mut self, bytes: &Bytes) {
        if self.first.is_none() {
            self.first = Some(bytes.clone());
        }
        self.last[self.next % KEPT] = Some(bytes.clone());
        self.next += 1;
    }

    /// What the answer used, if it said so.
    pub(crate) fn usage(&self) -> Option<TokenUsage> {
        let end = find_usage(&self.tail());
        let begin = self.first.as_deref().and_then(find_usage);
        match (begin, end) {
            (Some(a), Some(b)) => Some(TokenUsage {
                prompt_tokens: a.prompt_tokens.max(b.prompt_tokens),
                completion_tokens: a.completion_tokens.max(b.completion_tokens),
                cached_tokens: a.cached_tokens.max(b.cached_tokens),
            }),
            (one, other) => one.or(other),
        }
    }

    /// The id of a stored response (`resp_…`), for what will refer to it.
    pub(crate) fn response_id(&self) -> Option<String> {
        let head = self.first.as_deref()?;
        let head = &head[..head.len().min(HEAD)];
        let start = memmem::find(head, b"\"id\":\"resp_").map(|at| at + 6)?;
        let length = memchr::memchr(b'"', &head[start..])?;
        std::str::from_utf8(&head[start..start + length])
            .ok()
            .map(str::to_owned)
    }

    /// The last pieces in one, in order.
    fn tail(&self) -> Vec<u8> {
        let mut tail = Vec::new();
        for offset in 0..KEPT {
            if let Some(piece) = &self.last[(self.next + offset) % KEPT] {
                tail.extend_from_slice(&piece[piece.len().saturating_sub(TAIL)..]);
            }
        }
        tail
    }
}

/// Both spellings: `prompt_tokens` of chat and completions, `input_tokens` of responses and messages.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ReportedUsage {
    #[serde(alias = "input_tokens")]
    prompt_tokens: Option<u32>,
    #[serde(alias = "output_tokens")]
    completion_tokens: Option<u32>,
    #[serde(alias = "input_tokens_details")]
    prompt_tokens_details: Option<PromptTokenDetails>,
    cache_read_input_tokens: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PromptTokenDetails {
    cached_tokens: Option<u32>,
}

/// The last `"usage": {…}` in `text`. A prompt or answer cannot imitate it: inside JSON strings its quotes are escaped.
fn find_usage(text: &[u8]) -> Option<TokenUsage> {
    let mut end = text.len();
    while let Some(at) = memmem::rfind(&text[..end], b"\"usage\":") {
        let value = &text[at + b"\"usage\":".len()..];
        let said = serde_json::Deserializer::from_slice(value)
            .into_iter::<Option<ReportedUsage>>()
            .next();
        if let Some(Ok(Some(said))) = said
            && (said.prompt_tokens.is_some() || said.completion_tokens.is_some())
        {
            return Some(TokenUsage {
                prompt_tokens: said.prompt_tokens.unwrap_or(0),
                completion_tokens: said.completion_tokens.unwrap_or(0),
                cached_tokens: said
                    .prompt_tokens_details
                    .and_then(|details| details.cached_tokens)
                    .or(said.cache_read_input_tokens),
            });
        }
        end = at;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&str]) -> Option<TokenUsage> {
        let mut passing = UsageTap::default();
        for piece in pieces {
            passing.piece(&Bytes::copy_from_slice(piece.as_bytes()));
        }
        passing.usage()
    }

    const USAGE: TokenUsage = TokenUsage {
        prompt_tokens: 11,
        completion_tokens: 4,
        cached_tokens: Some(8),
    };

    #[test]
    fn usage_of_a_json_answer() {
        let body = r#"{"id":"c","choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":99}"}}],"usage":{"prompt_tokens":11,"total_tokens":15,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":8}},"kv_transfer_params":null}"#;
        assert_eq!(read(&[body]), Some(USAGE));
    }

    #[test]
    fn usage_of_a_stream_cut_anywhere() {
        let stream = "data: {\"choices\":[],\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":11,\"completion_tokens\":4,\"prompt_tokens_details\":{\"cached_tokens\":8}}}\n\ndata: [DONE]\n\n";
        for cut in 0..stream.len() {
            assert_eq!(
                read(&[&stream[..cut], &stream[cut..]]),
                Some(USAGE),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn usage_of_an_anthropic_stream_is_said_in_two_places() {
        let start = "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":11,\"output_tokens\":0,\"cache_read_input_tokens\":8}}}\n\n";
        let delta = "event: message_delta\ndata: {\"usage\":{\"output_tokens\":4}}\n\n";
        assert_eq!(
            read(&[start, "a", "b", "c", "d", delta, "event: message_stop\n\n"]),
            Some(USAGE)
        );
    }

    #[test]
    fn an_answer_without_usage_says_none() {
        assert_eq!(read(&["data: [DONE]\n\n"]), None);
        assert_eq!(read(&["{\"usage\":null}"]), None);
        assert_eq!(read(&["{\"usage\":{}}"]), None);
    }

    #[test]
    fn the_id_of_a_stored_response_is_found_at_its_beginning() {
        let mut passing = UsageTap::default();
        passing.piece(&Bytes::from_static(
            b"event: response.created\ndata: {\"response\":{\"id\":\"resp_ab12\",\"object\":1",
        ));
        assert_eq!(passing.response_id().as_deref(), Some("resp_ab12"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let mut passing = UsageTap::default();
            for piece in pieces {
                passing.piece(&Bytes::from([&piece[..], b"\"usage\":"].concat()));
            }
            prop_assert_eq!(passing.usage(), None);
            let _ = passing.response_id();
        }
    }
}
