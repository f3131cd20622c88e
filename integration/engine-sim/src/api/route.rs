//! The routes of the engine.

use http::Method;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Inference.
    Run(Task),
    CountTokens,
    Tokenize,
    Detokenize,
    Models,
    Health,
    Ping,
    Version,
    Load,
    KvEventSources,
    ResetPrefixCache,
    Metrics,
    /// The simulator's own: sets and clears faults.
    SimFaults,
    SimHeld,
    SimPairs,
    /// SGLang's.
    ServerInfo,
}

/// Kinds of inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Chat,
    Completions,
    Responses,
    Messages,
    Embeddings,
    Rerank,
    Score,
}

impl Task {
    /// Whether the answer is made of numbers, after prefill alone.
    pub(crate) fn is_pooling(self) -> bool {
        matches!(self, Self::Embeddings | Self::Rerank | Self::Score)
    }
}

impl Route {
    pub(crate) fn find(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/chat/completions" => Self::Run(Task::Chat),
            "/v1/completions" => Self::Run(Task::Completions),
            "/v1/responses" => Self::Run(Task::Responses),
            "/v1/messages" => Self::Run(Task::Messages),
            "/v1/embeddings" => Self::Run(Task::Embeddings),
            "/rerank" | "/v1/rerank" | "/v2/rerank" => Self::Run(Task::Rerank),
            "/score" | "/v1/score" => Self::Run(Task::Score),
            "/v1/messages/count_tokens" => Self::CountTokens,
            "/tokenize" => Self::Tokenize,
            "/detokenize" => Self::Detokenize,
            "/v1/models" => Self::Models,
            "/health" => Self::Health,
            "/ping" => Self::Ping,
            "/version" => Self::Version,
            "/load" => Self::Load,
            "/kv_event_sources" => Self::KvEventSources,
            "/reset_prefix_cache" => Self::ResetPrefixCache,
            "/metrics" => Self::Metrics,
            "/sim/faults" => Self::SimFaults,
            "/sim/held" => Self::SimHeld,
            "/sim/pairs" => Self::SimPairs,
            "/server_info" => Self::ServerInfo,
            _ => return None,
        })
    }

    /// The value of `Allow` for a method that is not among them.
    pub(crate) fn methods(self) -> &'static str {
        match self {
            Self::Run(_)
            | Self::CountTokens
            | Self::Tokenize
            | Self::Detokenize
            | Self::ResetPrefixCache
            | Self::SimHeld => "POST",
            Self::Ping => "GET, POST",
            Self::SimFaults => "POST, DELETE",
            Self::Models
            | Self::Health
            | Self::Version
            | Self::Load
            | Self::KvEventSources
            | Self::SimPairs
            | Self::ServerInfo
            | Self::Metrics => "GET",
        }
    }

    pub(crate) fn allows(self, method: &Method) -> bool {
        self.methods()
            .split(", ")
            .any(|allowed| allowed == method.as_str())
    }
}
