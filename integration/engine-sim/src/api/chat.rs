//! `/v1/chat/completions`.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;

use super::generation::Generation;
use super::reply::{Body, json};
use super::stream::{Events, Token};
use super::usage::{Usage, WholeUsage};
use crate::engine_core::Stopped;

#[derive(Serialize)]
struct ChatCompletion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<ChatChoice>,
    service_tier: (),
    system_fingerprint: &'a str,
    usage: WholeUsage,
    prompt_logprobs: (),
    prompt_token_ids: Option<&'a [u32]>,
    prompt_text: (),
    kv_transfer_params: Option<&'a RawValue>,
    ec_transfer_params: (),
    metrics: (),
}

#[derive(Serialize)]
struct ChatChoice {
    index: usize,
    message: Message,
    logprobs: (),
    finish_reason: &'static str,
    stop_reason: (),
    token_ids: Option<Vec<u32>>,
    routed_experts: (),
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    content: String,
    refusal: (),
    annotations: (),
    audio: (),
    function_call: (),
    reasoning: (),
}

/// The whole answer as one JSON object.
pub(crate) async fn whole(mut generation: Generation) -> Result<Response<Body>, Stopped> {
    let usage = generation.finish().await?;
    let Generation {
        params,
        id,
        created,
        fingerprint,
        choices,
        output_tokens,
        finish_reason,
        handoff,
        ..
    } = &generation;
    let messages = choices
        .iter()
        .enumerate()
        .map(|(index, choice)| ChatChoice {
            index,
            message: Message {
                role: "assistant",
                content: choice.answer.text(*output_tokens),
                refusal: (),
                annotations: (),
                audio: (),
                function_call: (),
                reasoning: (),
            },
            logprobs: (),
            finish_reason,
            stop_reason: (),
            token_ids: params
                .return_token_ids
                .then(|| choice.token_ids(*output_tokens)),
            routed_experts: (),
        });
    let answer = ChatCompletion {
        id: &format!("chatcmpl-{id}"),
        object: "chat.completion",
        created: *created,
        model: &params.model,
        choices: messages.collect(),
        service_tier: (),
        system_fingerprint: fingerprint,
        usage: usage.whole(),
        prompt_logprobs: (),
        prompt_token_ids: choices.first().and_then(|choice| choice.prompt.as_deref()),
        prompt_text: (),
        kv_transfer_params: handoff.as_deref(),
        ec_transfer_params: (),
        metrics: (),
    };
    Ok(json(StatusCode::OK, &answer))
}

/// The events of a streamed chat.
#[derive(Debug)]
pub(crate) struct ChatEvents {
    /// `data: {"id":…,"choices":[`, the same for each event of a stream.
    head: String,
    choices: usize,
    include_usage: bool,
    continuous_usage: bool,
    prompt_token_ids: String,
    return_token_ids: bool,
    fingerprint: Arc<str>,
}

impl ChatEvents {
    pub(crate) fn new(generation: &Generation) -> Self {
        let Generation {
            params,
            id,
            fingerprint,
            choices,
            ..
        } = generation;
        let prompt = choices.first().and_then(|choice| choice.prompt.as_ref());
        Self {
            head: head("chatcmpl-", id, "chat.completion.chunk", generation),
            choices: choices.len(),
            include_usage: params.include_usage,
            continuous_usage: params.continuous_usage,
            prompt_token_ids: text(&prompt),
            return_token_ids: params.return_token_ids,
            fingerprint: Arc::clone(fingerprint),
        }
    }

    fn usage(&self, out: &mut String, usage: &Usage) {
        if self.continuous_usage {
            let _ = write!(out, r#","usage":{}"#, text(&usage.running()));
        }
    }
}

impl Events for ChatEvents {
    fn opening(&mut self, out: &mut String, usage: &Usage) {
        for index in 0..self.choices {
            let head = &self.head;
            let _ = write!(
                out,
                r#"{head}{{"index":{index},"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}]"#
            );
            self.usage(out, usage);
            let _ = write!(
                out,
                r#","prompt_token_ids":{},"prompt_text":null}}"#,
                self.prompt_token_ids
            );
            out.push_str("\n\n");
        }
    }

    fn token(&mut self, out: &mut String, token: &Token) {
        let Token {
            choice,
            word,
            id,
            finish,
            usage,
        } = token;
        let head = &self.head;
        let _ = write!(
            out,
            r#"{head}{{"index":{choice},"delta":{{"content":"{word}"}},"logprobs":null,"finish_reason":"#
        );
        let _ = match finish {
            Some(reason) => write!(out, r#""{reason}","stop_reason":null,"token_ids":"#),
            None => write!(out, r#"null,"token_ids":"#),
        };
        let _ = if self.return_token_ids {
            write!(out, "[{id}]}}]")
        } else {
            write!(out, "null}}]")
        };
        self.usage(out, usage);
        if finish.is_some() && !self.include_usage {
            let _ = write!(out, r#","system_fingerprint":"{}""#, self.fingerprint);
        }
        out.push_str("}\n\n");
    }

    fn closing(&mut self, out: &mut String, usage: &Usage) {
        let usage = self.include_usage.then_some(usage);
        close(out, &self.head, &self.fingerprint, usage);
    }
}

/// The beginning that all events of one stream share.
pub(crate) fn head(prefix: &str, id: &str, object: &str, generation: &Generation) -> String {
    let Generation {
        params, created, ..
    } = generation;
    let (id, model) = (text(&format!("{prefix}{id}")), text(&params.model.as_ref()));
    format!(
        r#"data: {{"id":{id},"object":"{object}","created":{created},"model":{model},"choices":["#
    )
}

/// The end of a chat or completion stream: usage if it was asked for, then `[DONE]`.
pub(crate) fn close(out: &mut String, head: &str, fingerprint: &str, usage: Option<&Usage>) {
    if let Some(usage) = usage {
        let usage = text(&usage.last_chunk());
        let _ = write!(
            out,
            "{head}],\"usage\":{usage},\"system_fingerprint\":\"{fingerprint}\"}}\n\n"
        );
    }
    out.push_str("data: [DONE]\n\n");
}

/// A value as JSON text. Numbers, strings and lists of them have no way to fail.
pub(crate) fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
