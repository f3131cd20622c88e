//! What a server has still to prefill, and which blocks its cache will hold once it has done so.
//!
//! For those who may know the truth. Of a prefix that several waiting prompts share, the first
//! computes it and the others are expected to hit. Kept up to date rather than worked out on
//! demand, since queues can be long.

use std::collections::HashMap;

use hermes_engine_sim::model::cache::BlockCache;
use hermes_engine_sim::model::scheduler::Scheduler;
use hermes_engine_sim::model::sequence::SequenceId;

/// The prompts that a server has not finished computing.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    prompts: HashMap<SequenceId, Prompt>,
    /// How many of those prompts hold each block.
    promised: HashMap<u64, u32>,
}

#[derive(Debug)]
struct Prompt {
    blocks: Box<[u64]>,
    /// Tokens that it will have to compute, as far as was known when it came.
    uncached_tokens: usize,
}

impl Backlog {
    /// Takes in a prompt of which `uncached_tokens` are neither cached nor promised.
    pub(super) fn add(&mut self, id: SequenceId, blocks: &[u64], uncached_tokens: usize) {
        for block in blocks {
            *self.promised.entry(*block).or_default() += 1;
        }
        self.prompts.insert(
            id,
            Prompt {
                blocks: blocks.into(),
                uncached_tokens,
            },
        );
    }

    /// The prompt is computed: its first token is out.
    pub(super) fn remove(&mut self, id: SequenceId) {
        let Some(Prompt { blocks, .. }) = self.prompts.remove(&id) else {
            return;
        };
        for block in &blocks {
            if let Some(prompts) = self.promised.get_mut(block) {
                *prompts -= 1;
                if *prompts == 0 {
                    self.promised.remove(block);
                }
            }
        }
    }

    /// How many of these blocks, from the first, are cached or will be.
    pub(super) fn prefix_len(&self, blocks: &[u64], cache: &BlockCache) -> usize {
        blocks
            .iter()
            .take_while(|block| self.promised.contains_key(block) || cache.holds(**block))
            .count()
    }

    /// Tokens still to be computed.
    pub(super) fn tokens(&self, scheduler: &Scheduler) -> usize {
        scheduler.pending_prefill(|id| {
            self.prompts
                .get(&id)
                .map_or(0, |prompt| prompt.uncached_tokens)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_promised_as_long_as_one_prompt_with_it_waits() {
        let (mut backlog, cache) = (Backlog::default(), BlockCache::new(10));
        backlog.add(1, &[5, 6], 8);
        backlog.add(2, &[5], 1);
        backlog.remove(1);
        assert_eq!(
            (
                backlog.prefix_len(&[5, 6], &cache),
                backlog.prefix_len(&[6], &cache)
            ),
            (1, 0)
        );
        backlog.remove(2);
        assert_eq!(backlog.prefix_len(&[5], &cache), 0);
        assert!(backlog.promised.is_empty());
    }
}
