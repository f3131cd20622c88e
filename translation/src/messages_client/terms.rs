//! What a translation depends on beside the request.

/// What is known of the server of chat completions.
#[derive(Clone, Copy, Debug)]
pub struct ChatTerms<'t> {
    /// The server's name of the model; `None` for the client's.
    pub model: Option<&'t str>,
    /// Which fields beyond the common ones it has.
    pub dialect: ChatDialect,
}

/// Kinds of servers of chat completions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChatDialect {
    /// vLLM, SGLang and what is like them: `max_tokens`, `top_k`, `reasoning_content` in messages,
    /// `thinking_token_budget`, usage in every chunk, answers that begin with a given text.
    #[default]
    Engine,
    /// OpenAI's own servers, which refuse what they do not know: `max_completion_tokens`, files.
    OpenAi,
}
