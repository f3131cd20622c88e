//! Token usage that an answer reports, extracted from the relayed bytes.
//!
//! Engines report usage near the end: in the last event of a stream, or the last fields of a JSON
//! body. So the last few pieces are kept (reference counts, no copy) and parsed once, when the
//! answer has ended. Anthropic's streams report it in two places, so the first few pieces are kept
//! too, and the larger of each figure counts.

use bytes::Bytes;
use memchr::memmem;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use smallvec::SmallVec;

/// Pieces kept from the beginning of an answer, and from its end.
const KEPT: usize = 4;

/// Bytes of each kept piece that are searched.
const TAIL: usize = 16 << 10;

/// Bytes of each first piece in which the id is searched.
const HEAD: usize = 2 << 10;

/// Token counts of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenUsage {
    pub(crate) prompt_tokens: u32,
    pub(crate) completion_tokens: u32,
    /// Prompt tokens that the engine found in its KV cache; `None` when it did not report them.
    pub(crate) cached_tokens: Option<u32>,
}

/// The pieces of one answer that may hold its usage.
#[derive(Debug, Default)]
pub(crate) struct UsageTap {
    first: SmallVec<[Bytes; KEPT]>,
    last: [Option<Bytes>; KEPT],
    next: usize,
}

impl UsageTap {
    /// Keeps a piece that is relayed.
    pub(crate) fn piece(&mut self, bytes: &Bytes) {
        if self.first.len() < KEPT {
            self.first.push(bytes.clone());
        }
        self.last[self.next % KEPT] = Some(bytes.clone());
        self.next += 1;
    }

    /// The usage, if the answer reports it.
    pub(crate) fn usage(&self) -> Option<TokenUsage> {
        // Most answers that are not streamed are one piece.
        if let [only] = self.first.as_slice()
            && self.next == 1
            && only.len() <= TAIL
        {
            return find_usage(only);
        }
        let end = find_usage(&self.tail());
        let begin = self.begin(TAIL);
        let begin = find_usage(&begin);
        match (begin, end) {
            (Some(a), Some(b)) => Some(TokenUsage {
                prompt_tokens: a.prompt_tokens.max(b.prompt_tokens),
                completion_tokens: a.completion_tokens.max(b.completion_tokens),
                cached_tokens: a.cached_tokens.max(b.cached_tokens),
            }),
            (one, other) => one.or(other),
        }
    }

    /// The id of a stored response (`resp_…`), which later requests refer to.
    pub(crate) fn response_id(&self) -> Option<String> {
        let head = self.begin(HEAD);
        let mut quotes = memmem::find_iter(&head, b"\"resp_");
        let at = quotes.find(|&at| is_value_of(&head[..at], b"\"id\""))? + 1;
        let length = memchr::memchr(b'"', &head[at..])?;
        std::str::from_utf8(&head[at..at + length])
            .ok()
            .map(str::to_owned)
    }

    /// The first bytes of the first pieces, joined in order.
    fn begin(&self, limit: usize) -> Vec<u8> {
        let pieces = self.first.iter();
        let pieces = pieces.map(|piece| &piece[..piece.len().min(limit)]);
        pieces.collect::<Vec<_>>().concat()
    }

    /// The last pieces, joined in order.
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

/// Whether the text before a value ends with this key, quotes included.
fn is_value_of(before: &[u8], key: &[u8]) -> bool {
    let colon = before.trim_ascii_end().strip_suffix(b":");
    colon.is_some_and(|before| before.trim_ascii_end().ends_with(key))
}

/// Both spellings, and an engine may use both at once: `prompt_tokens` of chat and completions,
/// `input_tokens` of responses and messages.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ReportedUsage {
    prompt_tokens: TokenCount,
    input_tokens: TokenCount,
    completion_tokens: TokenCount,
    output_tokens: TokenCount,
    prompt_tokens_details: Option<PromptTokenDetails>,
    input_tokens_details: Option<PromptTokenDetails>,
    cache_read_input_tokens: TokenCount,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PromptTokenDetails {
    cached_tokens: TokenCount,
}

/// A number of tokens. Anything else in its place, such as -1 or `null`, reads as absent.
#[derive(Clone, Copy, Debug, Default)]
struct TokenCount(Option<u32>);

impl<'de> Deserialize<'de> for TokenCount {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(from)?;
        Ok(Self(raw.get().parse().ok()))
    }
}

impl ReportedUsage {
    /// `None` if it reports neither end.
    fn tokens(&self) -> Option<TokenUsage> {
        let prompt = self.prompt_tokens.0.or(self.input_tokens.0);
        let completion = self.completion_tokens.0.or(self.output_tokens.0);
        prompt.or(completion)?;
        let cached = |details: &Option<PromptTokenDetails>| {
            details.as_ref().and_then(|details| details.cached_tokens.0)
        };
        Some(TokenUsage {
            prompt_tokens: prompt.unwrap_or(0),
            completion_tokens: completion.unwrap_or(0),
            cached_tokens: cached(&self.prompt_tokens_details)
                .or_else(|| cached(&self.input_tokens_details))
                .or(self.cache_read_input_tokens.0),
        })
    }
}

/// The usage that this object is.
pub(crate) fn of_json(usage: &[u8]) -> Option<TokenUsage> {
    let reported: ReportedUsage = serde_json::from_slice(usage).ok()?;
    reported.tokens()
}

/// The last `"usage": {…}` in `text`. A prompt or answer cannot imitate it: inside JSON strings its
/// quotes are escaped.
fn find_usage(text: &[u8]) -> Option<TokenUsage> {
    const KEY: &[u8] = b"\"usage\"";
    let mut end = text.len();
    while let Some(at) = memmem::rfind(&text[..end], KEY) {
        end = at;
        let after = text[at + KEY.len()..].trim_ascii_start();
        let Some(value) = after.strip_prefix(b":") else {
            continue;
        };
        let reported = serde_json::Deserializer::from_slice(value)
            .into_iter::<Option<ReportedUsage>>()
            .next();
        if let Some(Ok(Some(reported))) = reported
            && let Some(usage) = reported.tokens()
        {
            return Some(usage);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&str]) -> Option<TokenUsage> {
        let mut tap = UsageTap::default();
        for piece in pieces {
            tap.piece(&Bytes::copy_from_slice(piece.as_bytes()));
        }
        tap.usage()
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
    fn usage_of_an_anthropic_stream_is_merged_from_two_events() {
        let start = "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":11,\"output_tokens\":0,\"cache_read_input_tokens\":8}}}\n\n";
        let delta = "event: message_delta\ndata: {\"usage\":{\"output_tokens\":4}}\n\n";
        assert_eq!(
            read(&[start, "a", "b", "c", "d", delta, "event: message_stop\n\n"]),
            Some(USAGE)
        );
    }

    #[test]
    fn usage_is_read_whatever_its_spaces_and_names() {
        let body = r#"{ "usage" : { "prompt_tokens": 11, "input_tokens": 11, "completion_tokens": 4, "output_tokens": 4,
            "input_tokens_details": {"cached_tokens": 8}, "prompt_tokens_details": null } }"#;
        assert_eq!(read(&[body]), Some(USAGE));
        let body = "{\"usage\"\n:\t{\"input_tokens\":11,\"output_tokens\":4,\"cache_read_input_tokens\":8}}";
        assert_eq!(read(&[body]), Some(USAGE));
    }

    #[test]
    fn one_bad_figure_loses_no_other() {
        for bad in ["-1", "null", "1e3", "\"8\"", "99999999999", "{}"] {
            let details = format!("\"prompt_tokens_details\":{{\"cached_tokens\":{bad}}}");
            let body =
                format!("{{\"usage\":{{\"prompt_tokens\":11,\"completion_tokens\":4,{details}}}}}");
            let expected = TokenUsage {
                cached_tokens: None,
                ..USAGE
            };
            assert_eq!(read(&[&body]), Some(expected), "{bad}");
        }
    }

    #[test]
    fn the_id_of_a_stored_response_is_found_whatever_its_spaces_and_pieces() {
        let body = "{\n  \"note\": \"resp_no\",\n  \"id\" : \"resp_ab12\"}";
        for cut in 0..body.len() {
            let mut tap = UsageTap::default();
            tap.piece(&Bytes::copy_from_slice(&body.as_bytes()[..cut]));
            tap.piece(&Bytes::copy_from_slice(&body.as_bytes()[cut..]));
            assert_eq!(tap.response_id().as_deref(), Some("resp_ab12"), "{cut}");
        }
    }

    #[test]
    fn an_answer_without_usage_has_none() {
        assert_eq!(read(&["data: [DONE]\n\n"]), None);
        assert_eq!(read(&["{\"usage\":null}"]), None);
        assert_eq!(read(&["{\"usage\":{}}"]), None);
    }

    #[test]
    fn the_id_of_a_stored_response_is_found_at_its_beginning() {
        let mut tap = UsageTap::default();
        tap.piece(&Bytes::from_static(
            b"event: response.created\ndata: {\"response\":{\"id\":\"resp_ab12\",\"object\":1",
        ));
        assert_eq!(tap.response_id().as_deref(), Some("resp_ab12"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let mut tap = UsageTap::default();
            for piece in pieces {
                tap.piece(&Bytes::from([&piece[..], b"\"usage\":"].concat()));
            }
            prop_assert_eq!(tap.usage(), None);
            let _ = tap.response_id();
        }
    }
}
