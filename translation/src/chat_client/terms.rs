//! What a translation depends on beside the request.

/// What is known of the server of messages.
#[derive(Clone, Copy, Debug)]
pub struct MessagesTerms<'t> {
    /// The server's name of the model; `None` for the client's.
    pub model: Option<&'t str>,
    /// `max_tokens` of a request that sets no limit. The API requires one.
    pub max_tokens: u64,
    /// What becomes of instructions after the first message.
    pub late_system: LateSystem,
}

/// What becomes of a system message after the first message of another role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LateSystem {
    /// It stays in its place. Models before Claude Opus 4.8 refuse it.
    #[default]
    InPlace,
    /// It becomes part of `system`, as Anthropic's own translation does.
    Hoisted,
}
