//! What a choice is asked, and what it answers.

use std::sync::Arc;

use serde::Serialize;
use smallvec::SmallVec;

use crate::snapshot::EndpointId;

/// Endpoints named in one answer: the choice and what to try after it, in order.
pub const MAX_RANKED: usize = 4;

/// One request, reduced to what a choice may read. The prompt is not among it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// Prompt length in bytes of its canonical form.
    pub prompt_bytes: u64,
    /// Estimated prompt length in tokens.
    pub prompt_tokens: u32,
    /// Chained hashes of the prompt's whole blocks, see [`crate::prefix`]; empty when no strategy asks for them.
    pub blocks: Arc<[u64]>,
    /// Hash of the session key, if the request has one.
    pub session: Option<u64>,
    /// Higher goes first; 0 is ordinary.
    pub priority: i32,
    /// Endpoints that were tried already and failed.
    pub exclude: SmallVec<[EndpointId; MAX_RANKED]>,
}

/// Cached tokens of a prompt that some endpoint is believed to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// Where.
    pub endpoint: EndpointId,
    /// How many of the prompt's tokens, counted from its start.
    pub tokens: u32,
}

/// The endpoints to try, best first. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// At most [`MAX_RANKED`], each once.
    pub ranked: SmallVec<[Ranked; MAX_RANKED]>,
    /// No endpoint that holds the model was healthy, so these were chosen although they are down.
    pub desperate: bool,
}

/// One endpoint of a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ranked {
    /// Position in the pool's endpoints.
    pub position: usize,
    /// Its id.
    pub endpoint: EndpointId,
    /// Prompt tokens it is expected to have cached.
    pub cached_tokens: u32,
}
