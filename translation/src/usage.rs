//! Counts of tokens in both APIs.
//!
//! OpenAI's `prompt_tokens` are all tokens of the prompt. Anthropic's `input_tokens` are those that
//! were neither read from the cache nor written into it.

use serde::{Deserialize, Deserializer, Serialize};

/// What a request cost, as far as its server reported it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerUsage {
    /// Tokens of the prompt that were neither read from a cache nor written into one.
    pub input: Option<u64>,
    /// Tokens of the prompt that were read from a cache.
    pub cache_read: Option<u64>,
    /// Tokens of the prompt that were written into a cache.
    pub cache_written: Option<u64>,
    /// Tokens of the answer, those of its thinking included.
    pub output: Option<u64>,
    /// Tokens of the thinking.
    pub thinking: Option<u64>,
}

/// Usage as OpenAI's API has it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct ChatUsage {
    #[serde(default, deserialize_with = "or_zero")]
    prompt_tokens: u64,
    #[serde(default, deserialize_with = "or_zero")]
    completion_tokens: u64,
    #[serde(default, deserialize_with = "or_zero")]
    total_tokens: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
struct PromptDetails {
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_write_tokens: Option<u64>,
    /// vLLM's name of the same.
    #[serde(skip_serializing)]
    created_cache_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
struct CompletionDetails {
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_tokens: Option<u64>,
}

/// Usage as Anthropic's API has it. Its stream reports it twice, each time a part.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct MessagesUsage {
    input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_creation_input_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

fn or_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(Option::<u64>::deserialize(deserializer)?.unwrap_or_default())
}

// === AnswerUsage ===

impl AnswerUsage {
    /// Adds another report of the same request. Each of its counts is a total until then, so the
    /// higher one counts.
    pub(crate) fn merge(&mut self, later: Self) {
        self.input = self.input.max(later.input);
        self.cache_read = self.cache_read.max(later.cache_read);
        self.cache_written = self.cache_written.max(later.cache_written);
        self.output = self.output.max(later.output);
        self.thinking = self.thinking.max(later.thinking);
    }
}

impl From<ChatUsage> for AnswerUsage {
    fn from(usage: ChatUsage) -> Self {
        let details = usage.prompt_tokens_details.unwrap_or_default();
        let cache_written = details.cache_write_tokens.or(details.created_cache_tokens);
        let cached = [details.cached_tokens, cache_written].into_iter().flatten();
        let cached = cached.fold(0, u64::saturating_add);
        let thinking = usage.completion_tokens_details;
        Self {
            input: Some(usage.prompt_tokens.saturating_sub(cached)),
            cache_read: details.cached_tokens,
            cache_written,
            output: Some(usage.completion_tokens),
            thinking: thinking.and_then(|details| details.reasoning_tokens),
        }
    }
}

impl From<MessagesUsage> for AnswerUsage {
    fn from(usage: MessagesUsage) -> Self {
        let details = usage.output_tokens_details;
        Self {
            input: usage.input_tokens,
            cache_read: usage.cache_read_input_tokens,
            cache_written: usage.cache_creation_input_tokens,
            output: usage.output_tokens,
            thinking: details.and_then(|details| details.thinking_tokens),
        }
    }
}

// === ChatUsage ===

impl From<AnswerUsage> for ChatUsage {
    fn from(usage: AnswerUsage) -> Self {
        let parts = [usage.input, usage.cache_read, usage.cache_written];
        let prompt_tokens = parts.into_iter().flatten().fold(0, u64::saturating_add);
        let completion_tokens = usage.output.unwrap_or_default();
        let has_cache = usage.cache_read.is_some() || usage.cache_written.is_some();
        let prompt = PromptDetails {
            cached_tokens: usage.cache_read,
            cache_write_tokens: usage.cache_written,
            created_cache_tokens: None,
        };
        let completion = CompletionDetails {
            reasoning_tokens: usage.thinking,
        };
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            prompt_tokens_details: has_cache.then_some(prompt),
            completion_tokens_details: usage.thinking.is_some().then_some(completion),
        }
    }
}

// === MessagesUsage ===

impl From<AnswerUsage> for MessagesUsage {
    fn from(usage: AnswerUsage) -> Self {
        let details = OutputDetails {
            thinking_tokens: usage.thinking,
        };
        Self {
            input_tokens: Some(usage.input.unwrap_or_default()),
            cache_creation_input_tokens: usage.cache_written,
            cache_read_input_tokens: usage.cache_read,
            output_tokens: Some(usage.output.unwrap_or_default()),
            output_tokens_details: usage.thinking.is_some().then_some(details),
        }
    }
}
