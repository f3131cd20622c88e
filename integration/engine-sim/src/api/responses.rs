//! `/v1/responses`, without tools, state or background runs.

use std::fmt::Write as _;

use http::StatusCode;
use serde::Serialize;

use super::chat::text;
use super::generation::Generation;
use super::reply::{Body, json};
use super::stream::{Events, Token};
use super::usage::Usage;
use crate::engine_core::Stopped;

#[derive(Serialize)]
struct ResponseObject<'a> {
    id: &'a str,
    created_at: u64,
    incomplete_details: Option<Incomplete>,
    instructions: (),
    metadata: (),
    model: &'a str,
    object: &'static str,
    output: Vec<Item<'a>>,
    parallel_tool_calls: bool,
    temperature: f64,
    tool_choice: &'static str,
    tools: [(); 0],
    top_p: f64,
    background: bool,
    max_output_tokens: u32,
    max_tool_calls: (),
    previous_response_id: (),
    prompt: (),
    reasoning: (),
    service_tier: &'static str,
    status: &'static str,
    text: (),
    top_logprobs: (),
    truncation: &'static str,
    usage: Option<ResponseUsage>,
    user: (),
    presence_penalty: f64,
    frequency_penalty: f64,
    kv_transfer_params: (),
    ec_transfer_params: (),
    input_messages: (),
    output_messages: (),
}

#[derive(Serialize)]
struct Incomplete {
    reason: &'static str,
}

#[derive(Serialize)]
struct Item<'a> {
    id: &'a str,
    content: Vec<Part<'a>>,
    role: &'static str,
    status: &'static str,
    r#type: &'static str,
    phase: (),
}

#[derive(Serialize)]
struct Part<'a> {
    annotations: [(); 0],
    text: &'a str,
    r#type: &'static str,
    logprobs: Option<[(); 0]>,
}

#[derive(Serialize)]
struct ResponseUsage {
    input_tokens: usize,
    input_tokens_details: InputDetails,
    output_tokens: usize,
    output_tokens_details: OutputDetails,
    total_tokens: usize,
}

#[derive(Serialize)]
struct InputDetails {
    cached_tokens: usize,
    cache_write_tokens: usize,
    input_tokens_per_turn: [usize; 0],
    cached_tokens_per_turn: [usize; 0],
}

#[derive(Serialize)]
struct OutputDetails {
    reasoning_tokens: usize,
    tool_output_tokens: usize,
    output_tokens_per_turn: [usize; 0],
    tool_output_tokens_per_turn: [usize; 0],
}

impl From<&Usage> for ResponseUsage {
    fn from(usage: &Usage) -> Self {
        let cached_tokens = if usage.details {
            usage.cached_tokens
        } else {
            0
        };
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputDetails {
                cached_tokens,
                cache_write_tokens: 0,
                input_tokens_per_turn: [],
                cached_tokens_per_turn: [],
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputDetails {
                reasoning_tokens: 0,
                tool_output_tokens: 0,
                output_tokens_per_turn: [],
                tool_output_tokens_per_turn: [],
            },
            total_tokens: usage.total_tokens(),
        }
    }
}

/// What a response has in common at its beginning and at its end.
#[derive(Debug)]
struct Subject {
    id: String,
    item: String,
    created: u64,
    model: String,
    max_output_tokens: u32,
    cut_off: bool,
}

impl Subject {
    fn new(generation: &Generation) -> Self {
        Self {
            id: format!("resp_{}", generation.id),
            item: format!("msg_{}", generation.id),
            created: generation.created,
            model: generation.params.model.to_string(),
            max_output_tokens: generation.output_tokens,
            cut_off: generation.finish_reason == "length",
        }
    }

    /// The response object: in progress without usage, ended with it.
    fn object<'a>(&'a self, output: Vec<Item<'a>>, usage: Option<&Usage>) -> ResponseObject<'a> {
        let status = match usage {
            None => "in_progress",
            Some(_) if self.cut_off => "incomplete",
            Some(_) => "completed",
        };
        ResponseObject {
            id: &self.id,
            created_at: self.created,
            incomplete_details: (status == "incomplete").then_some(Incomplete {
                reason: "max_output_tokens",
            }),
            instructions: (),
            metadata: (),
            model: &self.model,
            object: "response",
            output,
            parallel_tool_calls: true,
            temperature: 1.0,
            tool_choice: "none",
            tools: [],
            top_p: 1.0,
            background: false,
            max_output_tokens: self.max_output_tokens,
            max_tool_calls: (),
            previous_response_id: (),
            prompt: (),
            reasoning: (),
            service_tier: "auto",
            status,
            text: (),
            top_logprobs: (),
            truncation: "disabled",
            usage: usage.map(ResponseUsage::from),
            user: (),
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            kv_transfer_params: (),
            ec_transfer_params: (),
            input_messages: (),
            output_messages: (),
        }
    }

    fn item<'a>(&'a self, said: Option<&'a str>) -> Item<'a> {
        let status = if said.is_some() {
            "completed"
        } else {
            "in_progress"
        };
        let content = said.map(|text| part(text, None)).into_iter().collect();
        Item {
            id: &self.item,
            content,
            role: "assistant",
            status,
            r#type: "message",
            phase: (),
        }
    }
}

fn part(text: &str, logprobs: Option<[(); 0]>) -> Part<'_> {
    Part {
        annotations: [],
        text,
        r#type: "output_text",
        logprobs,
    }
}

/// The whole answer as one JSON object.
pub(crate) async fn whole(mut generation: Generation) -> Result<http::Response<Body>, Stopped> {
    let usage = generation.finish().await?;
    let subject = Subject::new(&generation);
    let said = generation
        .choices
        .first()
        .map(|choice| choice.answer.text(generation.output_tokens))
        .unwrap_or_default();
    Ok(json(
        StatusCode::OK,
        &subject.object(vec![subject.item(Some(&said))], Some(&usage)),
    ))
}

/// The events of a streamed response; the last one is `response.completed`, and there is no
/// `[DONE]`.
#[derive(Debug)]
pub(crate) struct ResponseEvents {
    subject: Subject,
    said: String,
    sequence: u64,
}

impl ResponseEvents {
    pub(crate) fn new(generation: &Generation) -> Self {
        Self {
            subject: Subject::new(generation),
            said: String::new(),
            sequence: 0,
        }
    }

    /// Appends one event: the fields before its sequence number, and those between the number and
    /// the type.
    fn event(&mut self, out: &mut String, name: &str, before: &str, after: &str) {
        let sequence = self.sequence;
        self.sequence += 1;
        let _ = write!(
            out,
            "event: {name}\ndata: {{{before}\"sequence_number\":{sequence},{after}\"type\":\"{name}\"}}\n\n"
        );
    }
}

impl Events for ResponseEvents {
    fn opening(&mut self, out: &mut String, _usage: &Usage) {
        let response = format!(
            "\"response\":{},",
            text(&self.subject.object(Vec::new(), None))
        );
        self.event(out, "response.created", &response, "");
        self.event(out, "response.in_progress", &response, "");
        let item = format!(
            "\"item\":{},\"output_index\":0,",
            text(&self.subject.item(None))
        );
        self.event(out, "response.output_item.added", &item, "");
        let (id, part) = (text(&self.subject.item), text(&part("", Some([]))));
        let added =
            format!("\"content_index\":0,\"item_id\":{id},\"output_index\":0,\"part\":{part},");
        self.event(out, "response.content_part.added", &added, "");
    }

    fn token(&mut self, out: &mut String, token: &Token) {
        let (id, word) = (text(&self.subject.item), token.word);
        self.said.push_str(word);
        let delta = format!(
            "\"content_index\":0,\"delta\":\"{word}\",\"item_id\":{id},\"logprobs\":[],\"output_index\":0,"
        );
        self.event(out, "response.output_text.delta", &delta, "");
    }

    fn closing(&mut self, out: &mut String, usage: &Usage) {
        let said = std::mem::take(&mut self.said);
        let id = text(&self.subject.item);
        let place = format!("\"content_index\":0,\"item_id\":{id},");
        let done = format!("{place}\"logprobs\":[],\"output_index\":0,");
        self.event(
            out,
            "response.output_text.done",
            &done,
            &format!("\"text\":{},", text(&said)),
        );
        let done = format!(
            "{place}\"output_index\":0,\"part\":{},",
            text(&part(&said, None))
        );
        self.event(out, "response.content_part.done", &done, "");
        let done = format!(
            "\"item\":{},\"output_index\":0,",
            text(&self.subject.item(Some(&said)))
        );
        self.event(out, "response.output_item.done", &done, "");
        let object = text(
            &self
                .subject
                .object(vec![self.subject.item(Some(&said))], Some(usage)),
        );
        self.event(
            out,
            "response.completed",
            &format!("\"response\":{object},"),
            "",
        );
    }
}
