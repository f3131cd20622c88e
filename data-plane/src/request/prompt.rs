//! The prompt of a request: its size, its token estimate and its hash chain. The text itself stays
//! in the body.

use std::{ops::Range, sync::Arc};

use hermes_core::prefix::HashChain;

use super::{
    fields::PromptSpans,
    media,
    request_body::{BodySpan, RequestBody},
};

/// The format of the prompt's hash chain; a change of what is hashed must change it.
const CHAIN_FORMAT: &[u8] = b"hermes-prefix-1";

/// Average bytes of text per token: an estimate for planning, never for accounting.
pub(crate) const BYTES_PER_TOKEN: u64 = 4;

/// The parts of a body that become the prompt: spans of raw JSON, in the order of chat templates.
/// A part that the body does not have is empty.
#[derive(Clone, Default)]
pub(crate) struct RequestPrompt {
    /// Of all parts in canonical form, or of the whole body where no part is known.
    bytes: u64,
    pub(super) salt: BodySpan,
    pub(super) tools: BodySpan,
    pub(super) system: BodySpan,
    /// The part that grows with a conversation.
    pub(super) conversation: BodySpan,
    /// Encoded media in the conversation: positions in the body.
    media: Vec<BodySpan>,
    /// The conversation is a list of messages.
    pub(super) has_messages: bool,
    pub(super) template: PromptTemplate,
}

/// Parameters of the chat template besides the conversation: raw JSON, and flags that the client
/// set.
#[derive(Clone, Default)]
pub(super) struct PromptTemplate {
    pub(super) kwargs: BodySpan,
    pub(super) documents: BodySpan,
    pub(super) reasoning: BodySpan,
    pub(super) add_generation_prompt: Option<bool>,
    pub(super) continue_final_message: Option<bool>,
    pub(super) add_special_tokens: Option<bool>,
    /// A field that changes the prompt is not among the parts.
    pub(super) has_more: bool,
}

impl RequestPrompt {
    /// The prompt of a body that is not parsed: only its length is known.
    pub(crate) fn unparsed(length: usize) -> Self {
        Self {
            bytes: length as u64,
            ..Self::default()
        }
    }

    /// The parts of `body` that `spans` found in it.
    pub(crate) fn of(spans: &PromptSpans, body: &RequestBody) -> Self {
        let tools = spans.tools.unwrap_or_default();
        let system = spans.system.or(spans.instructions).unwrap_or_default();
        let conversation = spans.messages.or(spans.prompt).or(spans.input);
        let conversation = conversation.unwrap_or_default();
        let media = media_in(body, conversation);
        let encoded: usize = media.iter().map(|span| span.len()).sum();
        let text = tools.len() + system.len() + conversation.len() - encoded;
        Self {
            bytes: text as u64 + media.len() as u64 * media::FILLER_BYTES,
            media,
            salt: spans.cache_salt.unwrap_or_default(),
            tools,
            system,
            conversation,
            has_messages: spans.messages.is_some(),
            template: PromptTemplate {
                kwargs: spans.template_kwargs.unwrap_or_default(),
                documents: spans.documents.unwrap_or_default(),
                reasoning: spans.reasoning.unwrap_or_default(),
                add_generation_prompt: spans.add_generation_prompt,
                continue_final_message: spans.continue_final_message,
                add_special_tokens: spans.add_special_tokens,
                has_more: spans.has_more,
            },
        }
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn estimated_tokens(&self) -> u32 {
        u32::try_from(self.bytes / BYTES_PER_TOKEN)
            .unwrap_or(u32::MAX)
            .max(1)
    }

    /// The prompt's chained block hashes; [`hermes_core::prefix`] defines the canonical form.
    /// `body` is the one in which the parts were found.
    pub(crate) fn blocks(&self, body: &RequestBody, model: &str, block_bytes: u32) -> Arc<[u64]> {
        let salt = body.contiguous(self.salt);
        let mut chain = HashChain::new(
            &[CHAIN_FORMAT, model.as_bytes(), &salt],
            block_bytes as usize,
        );
        for part in [self.tools, self.system] {
            chain.section(&[]);
            body.slices(part).for_each(|slice| chain.feed(slice));
        }
        chain.section(&[]);
        self.feed_conversation(&mut chain, body);
        chain.finish()
    }

    /// Feeds the conversation with fillers in place of media.
    fn feed_conversation(&self, chain: &mut HashChain, body: &RequestBody) {
        let text = inside(body, self.conversation);
        let mut start = text.start;
        for &media in &self.media {
            let end = media.start;
            body.slices(BodySpan { start, end })
                .for_each(|slice| chain.feed(slice));
            chain.feed(&media::filler(body.slices(media)));
            start = media.end;
        }
        let end = text.end;
        body.slices(BodySpan { start, end })
            .for_each(|slice| chain.feed(slice));
    }
}

/// The positions in `body` of encoded media in its part `span`.
fn media_in(body: &RequestBody, span: BodySpan) -> Vec<BodySpan> {
    // A string of media is longer than most prompts.
    if span.len() < media::SHORTEST {
        return Vec::new();
    }
    let found = media::spans(body.slices(span)).into_iter();
    found
        .map(|Range { start, end }| BodySpan {
            start: span.start + start,
            end: span.start + end,
        })
        .collect()
}

/// The JSON text of an array or string without its delimiters, which the next turn of a
/// conversation continues.
fn inside(body: &RequestBody, json: BodySpan) -> BodySpan {
    match body.byte(json.start) {
        Some(b'[' | b'"') if !json.is_empty() => json.inside(),
        _ => json,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::request::fields::BodyFields;

    fn prompt_of(body: &RequestBody) -> RequestPrompt {
        let fields = BodyFields::parse(body).expect("valid");
        RequestPrompt::of(&fields.prompt, body)
    }

    fn prompt(body: &str) -> RequestPrompt {
        prompt_of(&Bytes::copy_from_slice(body.as_bytes()).into())
    }

    fn hashes_of(model: &str, body: &RequestBody) -> Arc<[u64]> {
        prompt_of(body).blocks(body, model, 16)
    }

    fn hashes(model: &str, body: &str) -> Arc<[u64]> {
        hashes_of(model, &Bytes::copy_from_slice(body.as_bytes()).into())
    }

    #[test]
    fn a_body_in_pieces_has_the_hashes_of_the_whole() {
        let body = Bytes::from_static(
            br#"{"cache_salt":"t","tools":[{"type":"function"}],"messages":[{"role":"user","content":"h\u00e4"},
            {"role":"user","content":"a long enough question to fill blocks"}],"model":"m"}"#,
        );
        let whole = hashes_of("m", &body.clone().into());
        assert!(whole.len() > 5);
        for cut in 1..body.len() {
            let mut pieces = RequestBody::from(body.slice(..cut));
            pieces.push(body.slice(cut..));
            assert_eq!(hashes_of("m", &pieces), whole, "cut at {cut}");
        }
    }

    #[test]
    fn the_next_turn_of_a_conversation_begins_with_the_same_blocks() {
        let first = hashes(
            "m",
            r#"{"messages":[{"role":"user","content":"write about routers, please"}]}"#,
        );
        let second = hashes(
            "m",
            r#"{"messages":[{"role":"user","content":"write about routers, please"},{"role":"assistant","content":"they route"}]}"#,
        );
        assert!(first.len() >= 3 && second.len() > first.len());
        assert_eq!(second[..first.len()], first[..]);
    }

    #[test]
    fn a_picture_counts_as_a_fixed_number_of_tokens_and_its_content_is_hashed() {
        let chat = |picture: &str, bytes: usize| {
            let encoded: String = picture.chars().cycle().take(bytes).collect();
            format!(
                r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"what is this?"}},{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{encoded}"}}}}]}}]}}"#
            )
        };
        let (small, large) = (chat("iVBORw0", 10_000), chat("iVBORw0", 1_400_000));
        let tokens = prompt(&small).estimated_tokens();
        assert_eq!(prompt(&large).estimated_tokens(), tokens);
        assert!((1_024..1_100).contains(&tokens), "{tokens}");
        let blocks = hashes("m", &large);
        assert_eq!(blocks.len() as u64, (prompt(&large).bytes() + 1) / 16);
        assert_eq!(hashes("m", &large), blocks);
        let other = hashes("m", &chat("iVBORw1", 1_400_000));
        let common = std::iter::zip(&*blocks, &*other).take_while(|(one, other)| one == other);
        assert!((4..10).contains(&common.count()), "the text before it");
        assert_eq!(other.len(), blocks.len());
    }

    #[test]
    fn models_salts_and_tools_never_share_blocks() {
        let base =
            r#"{"messages":[{"role":"user","content":"a long enough question to fill blocks"}]}"#;
        let known = hashes("m", base);
        let others = [
            hashes("lora", base),
            hashes(
                "m",
                &base.replace("{\"messages\"", "{\"cache_salt\":\"t1\",\"messages\""),
            ),
            hashes(
                "m",
                &base.replace(
                    "{\"messages\"",
                    "{\"tools\":[{\"type\":\"function\"}],\"messages\"",
                ),
            ),
            hashes("m", &base.replace("a long", "A long")),
        ];
        for other in others {
            assert_ne!(other.last(), known.last());
        }
    }
}
