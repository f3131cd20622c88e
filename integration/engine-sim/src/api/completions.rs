//! `/v1/completions`.

use std::fmt::Write as _;
use std::sync::Arc;

use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;

use super::chat::{close, head, text};
use super::generation::Generation;
use super::reply::{Body, json};
use super::stream::{Events, Token};
use super::usage::{Usage, WholeUsage};
use crate::engine_core::Stopped;

#[derive(Serialize)]
struct Completion<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<CompletionChoice<'a>>,
    service_tier: (),
    system_fingerprint: &'a str,
    usage: WholeUsage,
    kv_transfer_params: Option<&'a RawValue>,
    ec_transfer_params: (),
    metrics: (),
}

#[derive(Serialize)]
struct CompletionChoice<'a> {
    index: usize,
    text: String,
    logprobs: (),
    finish_reason: &'static str,
    stop_reason: (),
    token_ids: Option<Vec<u32>>,
    prompt_logprobs: (),
    prompt_token_ids: Option<&'a [u32]>,
    routed_experts: (),
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
    let texts = choices
        .iter()
        .enumerate()
        .map(|(index, choice)| CompletionChoice {
            index,
            text: choice.answer.text(*output_tokens),
            logprobs: (),
            finish_reason,
            stop_reason: (),
            token_ids: params
                .return_token_ids
                .then(|| choice.token_ids(*output_tokens)),
            prompt_logprobs: (),
            prompt_token_ids: choice.prompt.as_deref(),
            routed_experts: (),
        });
    let answer = Completion {
        id: &format!("cmpl-{id}"),
        object: "text_completion",
        created: *created,
        model: &params.model,
        choices: texts.collect(),
        service_tier: (),
        system_fingerprint: fingerprint,
        usage: usage.whole(),
        kv_transfer_params: handoff.as_deref(),
        ec_transfer_params: (),
        metrics: (),
    };
    Ok(json(StatusCode::OK, &answer))
}

/// The events of a streamed completion.
#[derive(Debug)]
pub(crate) struct CompletionEvents {
    head: String,
    include_usage: bool,
    continuous_usage: bool,
    return_token_ids: bool,
    fingerprint: Arc<str>,
    /// The prompts as JSON, by choice; each goes out once, with the first token of its choice.
    prompts: Vec<Option<String>>,
}

impl CompletionEvents {
    pub(crate) fn new(generation: &Generation) -> Self {
        let Generation {
            params,
            id,
            fingerprint,
            choices,
            ..
        } = generation;
        Self {
            head: head("cmpl-", id, "text_completion", generation),
            include_usage: params.include_usage,
            continuous_usage: params.continuous_usage,
            return_token_ids: params.return_token_ids,
            fingerprint: Arc::clone(fingerprint),
            prompts: choices
                .iter()
                .map(|choice| choice.prompt.as_ref().map(text))
                .collect(),
        }
    }
}

impl Events for CompletionEvents {
    fn opening(&mut self, _out: &mut String, _usage: &Usage) {}

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
            r#"{head}{{"index":{choice},"text":"{word}","logprobs":null,"finish_reason":{},"#,
            text(finish)
        );
        let prompt = self.prompts[*choice].take();
        let prompt = prompt.as_deref().unwrap_or("null");
        let _ = write!(
            out,
            r#""stop_reason":null,"prompt_token_ids":{prompt},"token_ids":"#
        );
        let _ = if self.return_token_ids {
            write!(out, "[{id}]}}]")
        } else {
            write!(out, "null}}]")
        };
        if self.continuous_usage {
            let _ = write!(out, r#","usage":{}"#, text(&usage.running()));
        }
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
