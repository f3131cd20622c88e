//! What a proxy remembers of its own choices: which endpoint got which prompt, recently.

use std::{sync::Arc, time::Duration};

use crate::snapshot::EndpointId;

/// One request that was sent to one endpoint, which therefore has, or had, its prompt cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where it went.
    pub endpoint: EndpointId,
    /// Prompt length in tokens, estimated.
    pub prompt_tokens: u32,
    /// Chained hashes of the prompt's whole blocks, see [`crate::prefix`].
    pub blocks: Arc<[u64]>,
    /// Since it was sent.
    pub age: Duration,
}
