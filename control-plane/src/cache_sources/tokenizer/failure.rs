//! Why the tokens of a prompt are not known.

use crate::cache_sources::lookup_client::LookupFault;

/// See the module. Each means "no exact knowledge of caches for this request", and nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The tokenizer's files are not loaded: not yet, or they are unusable.
    Absent,
    /// The request has something that becomes tokens in the engine alone: images, several prompts,
    /// an unknown API.
    Unsupported,
    /// The request is none that an engine would take.
    Malformed,
    /// The prompt is over the limit.
    TooLong,
    /// The chat template refuses the conversation, or there is none.
    Template,
    /// The tokenizer does not take the text.
    Tokenizer,
    /// Too many prompts wait already.
    Saturated,
    /// Not in time.
    Late,
    /// The engine was asked, and that failed.
    Engine(LookupFault),
}

impl Failure {
    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Absent => "unavailable",
            Self::Unsupported => "unsupported",
            Self::Malformed => "malformed",
            Self::TooLong => "too_long",
            Self::Template => "template",
            Self::Tokenizer => "tokenizer",
            Self::Saturated | Self::Engine(LookupFault::Saturated) => "saturated",
            Self::Late | Self::Engine(LookupFault::Timeout) => "timeout",
            Self::Engine(fault) => fault.name(),
        }
    }
}
