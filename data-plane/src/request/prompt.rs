//! The prompt of a request: its size, its token estimate and its hash chain. The text itself is
//! only sliced.

use std::{iter, ops::Range, sync::Arc};

use bytes::Bytes;
use hermes_core::prefix::HashChain;
use serde_json::value::RawValue;

use super::media;
use crate::request::fields::BodyFields;

/// The format of the prompt's hash chain; a change of what is hashed must change it.
const CHAIN_FORMAT: &[u8] = b"hermes-prefix-1";

/// Average bytes of text per token: an estimate for planning, never for accounting.
pub(crate) const BYTES_PER_TOKEN: u64 = 4;

/// The parts of a body that become the prompt, as slices of its bytes: raw JSON, in the order of
/// chat templates.
#[derive(Default)]
pub(crate) struct RequestPrompt {
    /// Of all parts in canonical form, or of the whole body where no part is known.
    bytes: u64,
    pub(super) salt: Bytes,
    pub(super) tools: Bytes,
    pub(super) system: Bytes,
    /// The part that grows with a conversation.
    pub(super) conversation: Bytes,
    /// Encoded media in the conversation.
    media: Vec<Range<usize>>,
    /// The conversation is a list of messages.
    pub(super) has_messages: bool,
    pub(super) template: PromptTemplate,
}

/// Parameters of the chat template besides the conversation: raw JSON, and flags that the client
/// set.
#[derive(Default)]
pub(super) struct PromptTemplate {
    pub(super) kwargs: Bytes,
    pub(super) documents: Bytes,
    pub(super) reasoning: Bytes,
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

    /// The parts of `body` that `fields` found in it.
    pub(crate) fn of(fields: &BodyFields<'_>, body: &Bytes) -> Self {
        let part = |raw: Option<&RawValue>| {
            raw.map(|raw| body.slice_ref(raw.get().as_bytes()))
                .unwrap_or_default()
        };
        let tools = part(fields.tools);
        let system = part(fields.system.or(fields.instructions));
        let conversation = part(fields.messages.or(fields.prompt).or(fields.input));
        let media = media::spans(iter::once(&*conversation));
        let encoded: usize = media.iter().map(Range::len).sum();
        let text = tools.len() + system.len() + conversation.len() - encoded;
        Self {
            bytes: text as u64 + media.len() as u64 * media::FILLER_BYTES,
            media,
            salt: part(fields.cache_salt),
            tools,
            system,
            conversation,
            has_messages: fields.messages.is_some(),
            template: PromptTemplate {
                kwargs: part(fields.template.kwargs),
                documents: part(fields.template.documents),
                reasoning: part(fields.template.reasoning),
                add_generation_prompt: fields.template.add_generation_prompt,
                continue_final_message: fields.template.continue_final_message,
                add_special_tokens: fields.template.add_special_tokens,
                has_more: fields.template.has_more || fields.previous_response_id.is_some(),
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
    pub(crate) fn blocks(&self, model: &str, block_bytes: u32) -> Arc<[u64]> {
        let mut chain = HashChain::new(
            &[CHAIN_FORMAT, model.as_bytes(), &self.salt],
            block_bytes as usize,
        );
        chain.section(&self.tools);
        chain.section(&self.system);
        chain.section(&[]);
        self.feed_conversation(&mut chain);
        chain.finish()
    }

    /// Feeds the conversation with fillers in place of media.
    fn feed_conversation(&self, chain: &mut HashChain) {
        let inside = inside(&self.conversation);
        // One delimiter was cut off at either end, or none.
        let offset = usize::from(inside.len() < self.conversation.len());
        let mut text = offset;
        for contents in &self.media {
            chain.feed(&self.conversation[text..contents.start]);
            let contents = contents.clone();
            text = contents.end;
            chain.feed(&media::filler(iter::once(&self.conversation[contents])));
        }
        chain.feed(&self.conversation[text..offset + inside.len()]);
    }
}

/// The JSON text of an array or string without its delimiters, which the next turn of a
/// conversation continues.
fn inside(json: &[u8]) -> &[u8] {
    match json {
        [b'[', inside @ .., b']'] | [b'"', inside @ .., b'"'] => inside,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(body: &str) -> RequestPrompt {
        let body = Bytes::copy_from_slice(body.as_bytes());
        RequestPrompt::of(&BodyFields::parse(&body).expect("valid"), &body)
    }

    fn hashes(model: &str, body: &str) -> Arc<[u64]> {
        prompt(body).blocks(model, 16)
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
        let common = iter::zip(&*blocks, &*other).take_while(|(one, other)| one == other);
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
