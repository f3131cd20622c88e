//! `/v1/messages`, in Anthropic's shape.

use std::fmt::Write as _;

use http::{Response, StatusCode};
use serde::Serialize;

use super::chat::text;
use super::generation::Generation;
use super::reply::{Body, json};
use super::stream::{Events, Token};
use super::usage::Usage;
use crate::engine_core::Stopped;

#[derive(Serialize)]
struct MessageAnswer<'a> {
    id: &'a str,
    r#type: &'static str,
    role: &'static str,
    content: [TextBlock; 1],
    model: &'a str,
    stop_reason: &'static str,
    usage: TokenCounts,
}

#[derive(Serialize)]
struct TextBlock {
    r#type: &'static str,
    text: String,
}

#[derive(Serialize)]
struct TokenCounts {
    input_tokens: usize,
    output_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_read_input_tokens: Option<usize>,
}

impl From<&Usage> for TokenCounts {
    fn from(usage: &Usage) -> Self {
        let Usage {
            prompt_tokens,
            completion_tokens,
            cached_tokens,
            details,
        } = *usage;
        let cache_read_input_tokens = (details && cached_tokens > 0).then_some(cached_tokens);
        Self {
            input_tokens: prompt_tokens,
            output_tokens: completion_tokens,
            cache_read_input_tokens,
        }
    }
}

/// The whole answer as one JSON object.
pub(crate) async fn whole(mut generation: Generation) -> Result<Response<Body>, Stopped> {
    let usage = generation.finish().await?;
    let text = generation
        .choices
        .first()
        .map(|choice| choice.answer.text(generation.output_tokens));
    let answer = MessageAnswer {
        id: &format!("chatcmpl-{}", generation.id),
        r#type: "message",
        role: "assistant",
        content: [TextBlock {
            r#type: "text",
            text: text.unwrap_or_default(),
        }],
        model: &generation.params.model,
        stop_reason: stop_reason(&generation),
        usage: TokenCounts::from(&usage),
    };
    Ok(json(StatusCode::OK, &answer))
}

/// The events of a streamed message; the last one is `message_stop`, and there is no `[DONE]`.
#[derive(Debug)]
pub(crate) struct MessageEvents {
    id: String,
    model: String,
    stop_reason: &'static str,
}

impl MessageEvents {
    pub(crate) fn new(generation: &Generation) -> Self {
        let id = text(&format!("chatcmpl-{}", generation.id));
        Self {
            id,
            model: text(&generation.params.model.as_ref()),
            stop_reason: stop_reason(generation),
        }
    }
}

impl Events for MessageEvents {
    fn opening(&mut self, out: &mut String, usage: &Usage) {
        let Self { id, model, .. } = self;
        let usage = text(&TokenCounts::from(usage));
        let _ = write!(
            out,
            "event: message_start\ndata: {{\"type\":\"message_start\",\"message\":{{\"id\":{id},\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"model\":{model},\"stop_reason\":null,\"stop_sequence\":null,\"usage\":{usage}}}}}\n\n"
        );
        out.push_str("event: content_block_start\n");
        out.push_str("data: {\"type\":\"content_block_start\",\"content_block\":{\"type\":\"text\",\"text\":\"\"},\"index\":0}\n\n");
    }

    fn token(&mut self, out: &mut String, token: &Token) {
        let word = token.word;
        out.push_str("event: content_block_delta\n");
        let _ = write!(
            out,
            "data: {{\"type\":\"content_block_delta\",\"delta\":{{\"type\":\"text_delta\",\"text\":\"{word}\"}},\"index\":0}}\n\n"
        );
    }

    fn closing(&mut self, out: &mut String, usage: &Usage) {
        let (reason, usage) = (self.stop_reason, text(&TokenCounts::from(usage)));
        out.push_str(
            "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
        );
        let _ = write!(
            out,
            "event: message_delta\ndata: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"{reason}\",\"stop_sequence\":null}},\"usage\":{usage}}}\n\n"
        );
        out.push_str("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
    }
}

fn stop_reason(generation: &Generation) -> &'static str {
    match generation.finish_reason {
        "length" => "max_tokens",
        _ => "end_turn",
    }
}
