//! Token counts as OpenAI's `usage` object, in the key order of vLLM.

use serde::Serialize;

/// What one request has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: usize,
    pub(crate) completion_tokens: usize,
    pub(crate) cached_tokens: usize,
    /// Whether the answer says how many prompt tokens came from the cache.
    pub(crate) details: bool,
}

/// `prompt_tokens_details`.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct PromptDetails {
    cached_tokens: usize,
}

/// The usage of a whole answer: all keys, absent details as null.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct WholeUsage {
    prompt_tokens: usize,
    total_tokens: usize,
    completion_tokens: usize,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: (),
}

/// The usage in a stream: absent details are left out.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct StreamUsage {
    prompt_tokens: usize,
    total_tokens: usize,
    completion_tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<PromptDetails>,
    /// Present, as null, in the chunks of `continuous_usage_stats` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens_details: Option<()>,
}

impl Usage {
    pub(crate) fn total_tokens(&self) -> usize {
        self.prompt_tokens + self.completion_tokens
    }

    pub(crate) fn whole(&self) -> WholeUsage {
        WholeUsage {
            prompt_tokens: self.prompt_tokens,
            total_tokens: self.total_tokens(),
            completion_tokens: self.completion_tokens,
            prompt_tokens_details: self.prompt_details(),
            completion_tokens_details: (),
        }
    }

    /// The usage of the last chunk.
    pub(crate) fn last_chunk(&self) -> StreamUsage {
        StreamUsage {
            prompt_tokens: self.prompt_tokens,
            total_tokens: self.total_tokens(),
            completion_tokens: self.completion_tokens,
            prompt_tokens_details: self.prompt_details(),
            completion_tokens_details: None,
        }
    }

    /// The usage that `continuous_usage_stats` adds to each chunk.
    pub(crate) fn running(&self) -> StreamUsage {
        StreamUsage {
            prompt_tokens_details: None,
            completion_tokens_details: Some(()),
            ..self.last_chunk()
        }
    }

    fn prompt_details(&self) -> Option<PromptDetails> {
        self.details.then_some(PromptDetails {
            cached_tokens: self.cached_tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &impl Serialize) -> String {
        serde_json::to_string(value).unwrap()
    }

    #[test]
    fn without_details_the_bytes_are_those_of_a_captured_vllm() {
        let usage = Usage {
            prompt_tokens: 11,
            completion_tokens: 2,
            cached_tokens: 0,
            details: false,
        };
        let whole = r#"{"prompt_tokens":11,"total_tokens":13,"completion_tokens":2,"prompt_tokens_details":null,"completion_tokens_details":null}"#;
        assert_eq!(text(&usage.whole()), whole);
        assert_eq!(
            text(&usage.last_chunk()),
            r#"{"prompt_tokens":11,"total_tokens":13,"completion_tokens":2}"#
        );
        let running = r#"{"prompt_tokens":11,"total_tokens":13,"completion_tokens":2,"completion_tokens_details":null}"#;
        assert_eq!(text(&usage.running()), running);
    }
}
