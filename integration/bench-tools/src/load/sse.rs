//! Reading an answer's server-sent events as they arrive: what kind each one is, and the usage at
//! the end.
//!
//! Frames cut events anywhere, so a partial line waits for the rest. Only what a load test needs is
//! looked at: once the first token is seen, an event is parsed as JSON only when it carries usage,
//! or when its text was asked for.

use memchr::memmem;
use serde::Deserialize;

/// Longest event line kept; a longer one ends the reading, as no engine sends it.
const MAX_LINE: usize = 1 << 20;

/// Token counts that an engine reports, in OpenAI's shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Tokens in the prompt.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens in the answer.
    #[serde(default)]
    pub completion_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: Option<PromptTokensDetails>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
struct PromptTokensDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

impl Usage {
    /// Prompt tokens that came from a cache: `prompt_tokens_details.cached_tokens`, zero when
    /// absent.
    #[must_use]
    pub fn cached_tokens(&self) -> u64 {
        self.prompt_tokens_details
            .and_then(|details| details.cached_tokens)
            .unwrap_or(0)
    }
}

/// An answer, whole or one event of a stream, as far as it concerns a load test.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Answer {
    #[serde(default)]
    pub(crate) usage: Option<Usage>,
    #[serde(default)]
    choices: Vec<Choice>,
}

#[derive(Debug, Default, Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Text>,
    #[serde(default)]
    message: Option<Text>,
    #[serde(default)]
    text: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Text {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
}

impl Answer {
    /// The text of the first choice, from whichever field the endpoint and the mode put it in.
    pub(crate) fn text(&self) -> Option<&str> {
        let choice = self.choices.first()?;
        let part = choice.delta.as_ref().or(choice.message.as_ref());
        let content = part.and_then(|part| part.content.as_deref().filter(|text| !text.is_empty()));
        content
            .or_else(|| part.and_then(|part| part.reasoning_content.as_deref()))
            .or(choice.text.as_deref())
            .filter(|text| !text.is_empty())
    }
}

/// What has been seen of one stream.
#[derive(Debug, Default)]
pub(crate) struct EventReader {
    partial: Vec<u8>,
    collect: Option<String>,
    pub(crate) seen: Seen,
}

/// The findings, which the sender asks for after each frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Data events other than `[DONE]`.
    pub(crate) chunks: u32,
    /// An event with text came.
    pub(crate) token: bool,
    /// `[DONE]` came.
    pub(crate) done: bool,
    /// An error event came, or a line that no engine sends.
    pub(crate) error: bool,
    pub(crate) usage: Option<Usage>,
}

impl EventReader {
    /// A reader that keeps the answer's text when `keep_text`.
    pub(crate) fn new(keep_text: bool) -> Self {
        Self {
            collect: keep_text.then(String::new),
            ..Self::default()
        }
    }

    /// Takes the next bytes of the body.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (head, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.partial.is_empty() {
                self.line(head);
            } else {
                self.partial.extend_from_slice(head);
                let line = std::mem::take(&mut self.partial);
                self.line(&line);
            }
        }
        if self.partial.len() + bytes.len() > MAX_LINE {
            self.seen.error = true;
            self.partial.clear();
            return;
        }
        self.partial.extend_from_slice(bytes);
    }

    /// The text of the answer, if it was to be kept.
    pub(crate) fn into_text(self) -> Option<String> {
        self.collect
    }

    fn line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line == b"event: error" {
            self.seen.error = true;
        }
        let Some(data) = line.strip_prefix(b"data:") else {
            return;
        };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            self.seen.done = true;
            return;
        }
        self.seen.chunks += 1;
        if data.starts_with(b"{\"error\"") || data.starts_with(b"{\"object\":\"error\"") {
            self.seen.error = true;
            return;
        }
        let wanted = !self.seen.token
            || self.collect.is_some()
            || memmem::find(data, b"\"usage\":{").is_some()
            || memmem::find(data, b"\"usage\": {").is_some();
        if wanted {
            self.parse(data);
        }
    }

    fn parse(&mut self, data: &[u8]) {
        let Ok(answer) = serde_json::from_slice::<Answer>(data) else {
            self.seen.error = true;
            return;
        };
        if let Some(text) = answer.text() {
            self.seen.token = true;
            if let Some(collect) = &mut self.collect {
                collect.push_str(text);
            }
        }
        self.seen.usage = answer.usage.or(self.seen.usage);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = concat!(
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n",
        ": a comment\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\r\n\r\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"lo\"}}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2,",
        "\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn the_role_event_is_not_the_first_token() {
        let mut reader = EventReader::new(false);
        reader.feed(&STREAM.as_bytes()[..100]);
        assert_eq!((reader.seen.chunks, reader.seen.token), (1, false));
    }

    #[test]
    fn an_error_event_is_an_error_in_both_spellings() {
        for text in [
            "data: {\"error\":{\"message\":\"x\"}}\n\n",
            "event: error\ndata: {\"choices\":[]}\n\n",
        ] {
            let mut reader = EventReader::new(false);
            reader.feed(text.as_bytes());
            assert!(reader.seen.error, "{text}");
        }
    }

    #[test]
    fn text_of_a_whole_answer_and_of_a_completion_is_found_too() {
        for body in [
            "{\"choices\":[{\"message\":{\"content\":\"hi\"}}]}",
            "{\"choices\":[{\"text\":\"hi\"}]}",
        ] {
            let answer: Answer = serde_json::from_str(body).unwrap();
            assert_eq!(answer.text(), Some("hi"));
        }
    }

    proptest! {
        #[test]
        fn where_frames_cut_the_stream_makes_no_difference(cuts in proptest::collection::vec(0usize..STREAM.len(), 0..12)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut reader = EventReader::new(true);
            let mut from = 0;
            for cut in cuts {
                reader.feed(&STREAM.as_bytes()[from..cut]);
                from = cut;
            }
            reader.feed(&STREAM.as_bytes()[from..]);
            let usage = reader.seen.usage.unwrap();
            prop_assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens()), (9, 2, 4));
            prop_assert_eq!((reader.seen.chunks, reader.seen.done, reader.seen.error), (4, true, false));
            prop_assert_eq!(reader.into_text().unwrap(), "Hello");
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut reader = EventReader::new(true);
            reader.feed(&bytes);
            prop_assert!(reader.seen.chunks as usize <= bytes.len());
        }
    }
}
