//! One prompt on its way through the engine: what it has computed, what it holds, when things
//! happened.

use std::sync::Arc;
use std::time::Duration;

use crate::model::chain::Chain;
use crate::model::text::Answer;

/// Names one sequence for the life of an engine.
pub type SequenceId = u64;

/// A prompt to run, as a front end asks for it.
#[derive(Debug)]
pub struct Job {
    /// Its blocks.
    pub chain: Chain,
    /// Length of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the prompt whose KV cache another engine has computed.
    pub received: usize,
    /// How many tokens to generate; at least one.
    pub output_tokens: u32,
    /// Whether the model ends by itself after `output_tokens`, rather than being cut off.
    pub stops: bool,
    /// What it generates.
    pub answer: Answer,
    /// The LoRA adapter that it runs with.
    pub adapter: Option<Arc<str>>,
}

/// A job inside the scheduler. Invariant: `computed ≤ len`, and the first `shared` hashes of its
/// chain are referenced.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) job: Job,
    pub(crate) generated: u32,
    /// Tokens whose KV is in memory, from a cache hit or computed.
    pub(crate) computed: usize,
    /// Tokens that the step in progress computes.
    pub(crate) scheduled: usize,
    pub(crate) shared: usize,
    pub(crate) private: usize,
    /// Prompt tokens found in the cache at the first admission.
    pub(crate) cached: usize,
    pub(crate) preemptions: u32,
    /// Its blocks stay allocated after its end.
    pub(crate) is_held: bool,
    pub(crate) arrived: Duration,
    pub(crate) admitted: Option<Duration>,
    pub(crate) first_token: Duration,
    pub(crate) last_token: Duration,
}

impl Sequence {
    pub(crate) fn new(id: SequenceId, job: Job, arrived: Duration) -> Self {
        Self {
            id,
            job,
            generated: 0,
            computed: 0,
            scheduled: 0,
            shared: 0,
            private: 0,
            cached: 0,
            preemptions: 0,
            is_held: false,
            arrived,
            admitted: None,
            first_token: arrived,
            last_token: arrived,
        }
    }

    /// Prompt and generated tokens.
    pub(crate) fn len(&self) -> usize {
        self.job.prompt_tokens + self.generated as usize
    }

    /// The hashes that may come from the cache: the last token is always computed, since its output
    /// is needed.
    pub(crate) fn reusable(&self, block_size: usize) -> &[u64] {
        let blocks = self.len().saturating_sub(1) / block_size;
        &self.job.chain.hashes()[..blocks]
    }

    pub(crate) fn held_blocks(&self) -> usize {
        self.shared + self.private
    }

    pub(crate) fn is_decoding(&self) -> bool {
        self.generated > 0 && self.len() - self.computed == 1
    }

    pub(crate) fn is_done(&self) -> bool {
        self.generated >= self.job.output_tokens
    }

    /// Appends the next token of the answer.
    pub(crate) fn generate(&mut self) {
        let token = self.job.answer.token(self.generated);
        self.job.chain.push(token);
        self.generated += 1;
    }
}
