//! From bytes and blocks to tokens: corrects estimated prompt lengths, and knows the mean length of
//! a block.

use crate::query::Query;

/// Tokens of one block before any prompt was seen: 256 bytes of English.
const INITIAL_TOKENS_PER_BLOCK: f64 = 64.0;
/// Weight of a new sample in the moving means, once there are many.
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
    /// Prompts that the mean of tokens per block is of, at most those that have a weight in it.
    observed: f64,
    /// Engine's tokens per token that proxies estimate; moving mean.
    ratio: f64,
}

impl Default for PromptCalibration {
    fn default() -> Self {
        Self {
            tokens_per_block: INITIAL_TOKENS_PER_BLOCK,
            settled: INITIAL_TOKENS_PER_BLOCK,
            observed: 0.0,
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

    /// A prompt with blocks was routed. The mean of the first ones is that of them alone: a moving
    /// mean would begin with what is usual for English, and an index that is converted by it is too
    /// small, or too large, for the first hundreds of prompts.
    pub(super) fn observe_blocks(&mut self, query: &Query) {
        self.observed = (self.observed + 1.0).min(1.0 / WEIGHT);
        self.tokens_per_block += (tokens_per_block(query) - self.tokens_per_block) / self.observed;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A prompt of 100 blocks.
    fn prompt(tokens_per_block: u32) -> Query {
        Query {
            prompt_bytes: 100 * 256,
            prompt_tokens: 100 * tokens_per_block,
            blocks: (0..100).collect(),
            block_bytes: 256,
            ..Query::default()
        }
    }

    #[test]
    fn the_first_prompt_shows_the_length_of_blocks_and_a_single_later_one_changes_it_little() {
        let mut calibration = PromptCalibration::default();
        calibration.observe_blocks(&prompt(16));
        assert!((calibration.tokens_per_block() - 16.0).abs() < 1e-9);
        assert!(calibration.has_drifted());
        (0..1_000).for_each(|_| calibration.observe_blocks(&prompt(16)));
        calibration.observe_blocks(&prompt(64));
        assert!(calibration.tokens_per_block() < 17.0);
        (0..1_000).for_each(|_| calibration.observe_blocks(&prompt(64)));
        assert!(calibration.tokens_per_block() > 63.0);
    }
}
