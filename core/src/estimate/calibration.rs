//! From bytes and blocks to tokens: corrects estimated prompt lengths, and knows the mean length of
//! a block.

use crate::query::Query;

/// Tokens of one block before any prompt was seen: 256 bytes of English.
const INITIAL_TOKENS_PER_BLOCK: f64 = 64.0;
/// Weight of a new sample in the moving means.
const WEIGHT: f64 = 0.02;
/// Relative drift of tokens per block at which capacities are converted again.
const DRIFT: f64 = 0.1;
/// Estimates of a prompt's length are corrected within these bounds.
const RATIO: (f64, f64) = (0.25, 4.0);

/// See the module. One per pool.
#[derive(Debug)]
pub(super) struct PromptCalibration {
    /// Moving mean.
    tokens_per_block: f64,
    /// The mean when capacities were last converted to blocks.
    settled: f64,
    /// Engine's tokens per token that proxies estimate; moving mean.
    ratio: f64,
}

impl Default for PromptCalibration {
    fn default() -> Self {
        Self {
            tokens_per_block: INITIAL_TOKENS_PER_BLOCK,
            settled: INITIAL_TOKENS_PER_BLOCK,
            ratio: 1.0,
        }
    }
}

impl PromptCalibration {
    pub(super) const fn tokens_per_block(&self) -> f64 {
        self.tokens_per_block
    }

    pub(super) fn has_drifted(&self) -> bool {
        (self.tokens_per_block / self.settled - 1.0).abs() > DRIFT
    }

    /// Capacities are converted with the present mean.
    pub(super) fn settle(&mut self) {
        self.settled = self.tokens_per_block;
    }

    /// A prompt with blocks was routed.
    pub(super) fn observe_blocks(&mut self, query: &Query) {
        self.tokens_per_block += WEIGHT * (tokens_per_block(query) - self.tokens_per_block);
    }

    /// The engine reported the length of a prompt. Of an exact length there is nothing to correct.
    pub(super) fn observe_length(&mut self, query: &Query, prompt_tokens: u32) {
        if query.exact_tokens {
            return;
        }
        let factor = f64::from(prompt_tokens) / f64::from(query.prompt_tokens.max(1));
        let (least, most) = RATIO;
        let step = 1.0 + WEIGHT * (factor.clamp(least, most) - 1.0);
        self.ratio = (self.ratio * step).clamp(least, most);
    }

    /// The query with its estimated length corrected by the mean ratio.
    pub(super) fn corrected(&self, query: &Query) -> Query {
        if query.exact_tokens {
            return query.clone();
        }
        let tokens = f64::from(query.prompt_tokens) * self.ratio;
        Query {
            prompt_tokens: (tokens.round() as u32).max(1),
            ..query.clone()
        }
    }
}

/// Tokens in the first `depth` blocks of this prompt.
pub(super) fn tokens_of_blocks(query: &Query, depth: u32) -> u32 {
    (f64::from(depth) * tokens_per_block(query)) as u32
}

/// Tokens in one block of this prompt.
fn tokens_per_block(query: &Query) -> f64 {
    let blocks = (query.blocks.len() as f64).max(1.0);
    let hashed = (query.blocks.len() as u64 * u64::from(query.block_bytes))
        .min(query.prompt_bytes.max(1)) as f64;
    f64::from(query.prompt_tokens) * (hashed / query.prompt_bytes.max(1) as f64) / blocks
}
