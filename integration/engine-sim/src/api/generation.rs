//! What all generating routes share: the common parameters, their checks, and the sequences that
//! run for one request.

use std::sync::Arc;

use serde_json::value::RawValue;
use tracing::Span;

use super::context::EngineContext;
use super::fields::{BOOLEAN, Fields, INTEGER, OBJECT, STRING, Text};
use super::reply::ApiError;
use super::usage::Usage;
use crate::engine_core::{HeldBlocks, Stopped, Ticket};
use crate::model::chain::Chain;
use crate::model::sequence::Job;
use crate::model::text::Answer;

/// Most sequences that one request may start (prompts × n).
const MAX_SEQUENCES: usize = 1024;

/// Parameters that mean the same on every route.
#[derive(Debug)]
pub(crate) struct Params {
    /// The model as named in the request, or the base model.
    pub(crate) model: Arc<str>,
    pub(crate) adapter: bool,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) continuous_usage: bool,
    pub(crate) return_token_ids: bool,
    /// The limit on the answer, with the name of its field.
    pub(crate) max_tokens: Option<(&'static str, i64)>,
    choices: usize,
    salt: Option<String>,
    /// Tokens of the prompt whose KV cache another engine has computed.
    pub(crate) received: usize,
    /// What was received counts as cached in the usage.
    pub(crate) counts_received: bool,
    /// Whether the KV cache of the prompt stays in memory for another engine.
    pub(crate) holds: bool,
}

/// The running sequences of one request. Dropping it aborts what has not finished.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) params: Params,
    /// The part of the answer's id behind its prefix.
    pub(crate) id: String,
    /// Seconds since the Unix epoch.
    pub(crate) created: u64,
    /// The engine's version, as vLLM's system fingerprint.
    pub(crate) fingerprint: Arc<str>,
    pub(crate) choices: Vec<Choice>,
    pub(crate) output_tokens: u32,
    /// Why the answers end: `length` or `stop`.
    pub(crate) finish_reason: &'static str,
    /// The engine's part of the request's trace.
    pub(crate) span: Span,
    /// What a prefill engine answers for a decode engine.
    pub(crate) handoff: Option<Box<RawValue>>,
    details: bool,
}

/// One answer that is being generated.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) ticket: Ticket,
    pub(crate) answer: Answer,
    /// Tokens of its prompt; 0 for the second and later answers to one prompt, so that prompts
    /// count once.
    prompt_tokens: usize,
    /// Tokens of its prompt that another engine has computed and that count as cached.
    received: usize,
    /// The prompt itself, kept only when the client wants it back.
    pub(crate) prompt: Option<Vec<u32>>,
}

impl Params {
    /// Reads the parameters and checks that the model is served.
    pub(crate) fn read(
        context: &EngineContext,
        fields: &Fields<'_>,
        limits: &[&'static str],
    ) -> Result<Self, ApiError> {
        let stream = fields.flag("stream")?;
        let options: Option<&RawValue> = fields.optional("stream_options", OBJECT)?;
        if options.is_some() && !stream {
            let message =
                "Stream options can only be defined when `stream=True`. (parameter=stream_options)";
            return Err(ApiError::bad_request(Some("stream_options"), message));
        }
        let options = options
            .map(|raw| Fields::parse(raw.get().as_bytes()))
            .transpose()?;
        let option = |name| {
            options
                .as_ref()
                .map_or(Ok(false), |options| options.flag(name))
        };
        let (include_usage, continuous_usage) =
            (option("include_usage")?, option("continuous_usage_stats")?);
        let mut max_tokens = None;
        for name in limits {
            if let Some(value) = fields.optional(name, INTEGER)? {
                max_tokens = Some((*name, value));
                break;
            }
        }
        fields.optional::<i64>("min_tokens", INTEGER)?;
        fields.optional::<bool>("ignore_eos", BOOLEAN)?;
        let choices: i64 = fields.optional("n", INTEGER)?.unwrap_or(1);
        let model: Option<Text<'_>> = fields.optional("model", STRING)?;
        let (model, adapter) = context.model(model.as_ref().map(|model| model.0.as_ref()))?;
        let salt: Option<Text<'_>> = fields.optional("cache_salt", STRING)?;
        Ok(Self {
            model,
            adapter,
            stream,
            include_usage: include_usage || continuous_usage,
            continuous_usage,
            return_token_ids: fields.flag("return_token_ids")?,
            max_tokens,
            choices: usize::try_from(choices).unwrap_or(0),
            salt: salt.map(|salt| salt.0.into_owned()),
            received: 0,
            counts_received: false,
            holds: false,
        })
    }

    /// How many tokens to generate for a prompt of this length, or why that cannot be.
    fn output_tokens(
        &self,
        context: &EngineContext,
        prompt_tokens: usize,
    ) -> Result<u32, ApiError> {
        let context_length = context.config.context();
        let room = context_length.saturating_sub(prompt_tokens);
        let Some((name, wanted)) = self.max_tokens else {
            let natural = (context.config.default_output as usize).min(room);
            return if room == 0 {
                Err(too_long(context_length, 1, prompt_tokens))
            } else {
                Ok(natural as u32)
            };
        };
        if wanted < 1 {
            let message = format!(
                "max_tokens must be at least 1, got {wanted}. (parameter=max_tokens, value={wanted})"
            );
            return Err(ApiError::bad_request(Some("max_tokens"), message));
        }
        let tokens = usize::try_from(wanted).unwrap_or(usize::MAX);
        if tokens > context_length {
            let message = format!(
                "{name}={wanted} cannot be greater than max_model_len={context_length}. Please request fewer output tokens. (parameter={name}, value={wanted})"
            );
            return Err(ApiError::bad_request(Some(name), message));
        }
        if tokens > room {
            return Err(too_long(context_length, tokens, prompt_tokens));
        }
        Ok(tokens as u32)
    }
}

impl Generation {
    /// Checks the prompts against the context and starts all of them.
    pub(crate) fn start(
        context: &EngineContext,
        params: Params,
        id: String,
        prompts: Vec<Vec<u32>>,
    ) -> Result<Self, ApiError> {
        if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
            return Err(ApiError::bad_request(
                Some("prompt"),
                "The decoder prompt cannot be empty",
            ));
        }
        if params.choices == 0 || params.choices.saturating_mul(prompts.len()) > MAX_SEQUENCES {
            let message = format!(
                "n must be at least 1 and ask for at most {MAX_SEQUENCES} answers, got {}.",
                params.choices
            );
            return Err(ApiError::bad_request(Some("n"), message));
        }
        let mut output_tokens = u32::MAX;
        for prompt in &prompts {
            output_tokens = output_tokens.min(params.output_tokens(context, prompt.len())?);
        }
        let stops = params.max_tokens.is_none();
        let mut choices = Vec::with_capacity(prompts.len() * params.choices);
        for prompt in prompts {
            start_prompt(context, &params, prompt, output_tokens, &mut choices);
        }
        Ok(Self {
            params,
            id,
            created: crate::clock::unix_seconds(),
            fingerprint: Arc::clone(&context.fingerprint),
            choices,
            output_tokens,
            finish_reason: if stops { "stop" } else { "length" },
            span: Span::none(),
            handoff: None,
            details: context.config.prompt_tokens_details,
        })
    }

    /// Waits for all answers.
    ///
    /// # Errors
    /// `Stopped` when the engine ends first.
    pub(crate) async fn finish(&mut self) -> Result<Usage, Stopped> {
        let mut usage = self.usage();
        usage.completion_tokens = self.output_tokens as usize * self.choices.len();
        for choice in &mut self.choices {
            let progress = choice.ticket.done().await?;
            usage.cached_tokens += choice.cached(progress.cached);
        }
        Ok(usage)
    }

    /// Waits until all answers are complete.
    ///
    /// # Errors
    /// `Stopped` when the engine ends first.
    pub(crate) async fn complete(&mut self) -> Result<(), Stopped> {
        for choice in &mut self.choices {
            choice.ticket.done().await?;
        }
        Ok(())
    }

    /// The memory of the prompts, which are computed, if it was to be held.
    pub(crate) fn hold(&mut self) -> impl Iterator<Item = HeldBlocks> {
        let choices = self.choices.iter_mut();
        choices.filter_map(|choice| choice.ticket.hold())
    }

    /// The usage before the first token, without cached tokens.
    pub(crate) fn usage(&self) -> Usage {
        let prompt_tokens = self.choices.iter().map(|choice| choice.prompt_tokens).sum();
        Usage {
            prompt_tokens,
            completion_tokens: 0,
            cached_tokens: 0,
            details: self.details,
        }
    }
}

impl Choice {
    /// What this answer adds to the request's cached tokens: nothing if its prompt has been counted
    /// already.
    pub(crate) fn cached(&self, cached: usize) -> usize {
        if self.prompt_tokens > 0 {
            cached.max(self.received)
        } else {
            0
        }
    }

    /// The ids of its first `tokens` tokens.
    pub(crate) fn token_ids(&self, tokens: u32) -> Vec<u32> {
        (0..tokens)
            .map(|position| self.answer.token(position))
            .collect()
    }
}

fn start_prompt(
    context: &EngineContext,
    params: &Params,
    prompt: Vec<u32>,
    output_tokens: u32,
    choices: &mut Vec<Choice>,
) {
    let salt = params.salt.as_deref();
    let mut chain = Chain::new(&params.model, salt, context.config.block_size, &prompt);
    if context.config.kv_events.is_some() {
        chain = chain.keep(&prompt, salt);
    }
    let prompt_tokens = prompt.len();
    let kept = params.return_token_ids.then_some(prompt);
    for index in 0..params.choices {
        let answer = Answer::new(chain.digest(), index as u32);
        let adapter = params.adapter.then(|| Arc::clone(&params.model));
        let job = Job {
            chain: chain.clone(),
            prompt_tokens,
            received: params.received,
            output_tokens,
            stops: params.max_tokens.is_none(),
            answer,
            adapter,
        };
        let prompt_tokens = if index == 0 { prompt_tokens } else { 0 };
        choices.push(Choice {
            ticket: context.ranks.submit(job, params.holds),
            answer,
            prompt_tokens,
            received: if params.counts_received {
                params.received
            } else {
                0
            },
            prompt: kept.clone(),
        });
    }
}

fn too_long(context: usize, output: usize, prompt: usize) -> ApiError {
    let message = format!(
        "This model's maximum context length is {context} tokens. However, you requested {output} output tokens and your prompt contains {prompt} input tokens, for a total of {} tokens. Please reduce the length of the input prompt or the number of requested output tokens. (parameter=input_tokens, value={prompt})",
        output.saturating_add(prompt)
    );
    ApiError::bad_request(Some("input_tokens"), message)
}
