//! What requests paid for want of another copy of their common prefix: a reason to make one.
//!
//! A long prefix that many prompts begin with is cached at one endpoint, and all of them wait for
//! that one: each alone waits less than it would cost to compute the prefix elsewhere, and all
//! together much more. It is the problem of renting skis or buying them: rent until the rents are
//! the price, and then buy, which costs at most twice what it would have cost to know from the
//! start (Karlin, Manasse, Rudolph, Sleator 1988).
//!
//! ```text
//!   prompt a   ■ ■ ■ ■ a a a a a      common: what a prompt shares with the one before it that
//!   prompt b   ■ ■ ■ ■ b b            begins with the same block, and is another conversation's
//! ```
//!
//! The rent of a request is the time that it would have saved at another endpoint with a copy of
//! the common prefix. Rents add up by the first block of prompts, fade within a minute, and are
//! spent by the request that makes the copy. A conversation's own history is never paid for: no
//! other request will use it.
//!
//! Bounded: [`MOST`] first blocks, with [`DEPTH`] blocks of one prompt each.

use std::{collections::HashMap, time::Duration};

use crate::{hash::MixBuildHasher, query::Query};

/// First blocks that are remembered; the one that was used least recently is forgotten.
const MOST: usize = 64;
/// Blocks of a common prefix at most.
const DEPTH: usize = 256;
/// Older rents count for less, by a factor e.
const LATELY: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct PrefixRents {
    prefixes: HashMap<u64, CommonPrefix, MixBuildHasher>,
}

/// Prompts with one first block.
#[derive(Debug)]
struct CommonPrefix {
    /// The first blocks of the last prompt.
    last: Vec<u64>,
    /// Blocks that prompts of different conversations share.
    depth: usize,
    /// Seconds that were paid, as of `at`.
    paid: f64,
    at: Duration,
}

/// What a request may spend to make a copy of its common prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct PrefixCredit {
    /// Seconds.
    pub(super) seconds: f64,
    /// Tokens of the common prefix.
    pub(super) tokens: u32,
}

impl PrefixRents {
    /// What was paid for want of copies of this prompt's common prefix.
    pub(super) fn credit(&self, query: &Query, now: Duration) -> PrefixCredit {
        let head = query.blocks.first();
        let Some(prefix) = head.and_then(|head| self.prefixes.get(head)) else {
            return PrefixCredit::default();
        };
        let blocks = query.blocks.len().max(1) as u64;
        let depth = prefix.depth.min(query.blocks.len()) as u64;
        PrefixCredit {
            seconds: prefix.as_of(now),
            tokens: (u64::from(query.prompt_tokens) * depth / blocks) as u32,
        }
    }

    /// A prompt is bound that paid `seconds`, or spent them, below zero.
    pub(super) fn bound(&mut self, query: &Query, seconds: f64, now: Duration) {
        let Some(&head) = query.blocks.first() else {
            return;
        };
        if self.prefixes.len() >= MOST && !self.prefixes.contains_key(&head) {
            let oldest = self.prefixes.iter().min_by_key(|(_, prefix)| prefix.at);
            if let Some((&oldest, _)) = oldest {
                self.prefixes.remove(&oldest);
            }
        }
        let blocks = &query.blocks[..query.blocks.len().min(DEPTH)];
        let Some(prefix) = self.prefixes.get_mut(&head) else {
            let prefix = CommonPrefix {
                last: blocks.to_vec(),
                depth: 0,
                paid: seconds.max(0.0),
                at: now,
            };
            self.prefixes.insert(head, prefix);
            return;
        };
        prefix.paid = (prefix.as_of(now) + seconds).max(0.0);
        prefix.at = now;
        let same = prefix
            .last
            .iter()
            .zip(blocks)
            .take_while(|(one, other)| one == other);
        let same = same.count();
        // The same conversation goes on where the whole of the last prompt, or of this one, is
        // shared.
        if same < prefix.last.len() && same < blocks.len() {
            prefix.depth = same;
        }
        prefix.last.clear();
        prefix.last.extend_from_slice(blocks);
    }
}

impl CommonPrefix {
    fn as_of(&self, now: Duration) -> f64 {
        let age = now.saturating_sub(self.at).as_secs_f64();
        self.paid * (-age / LATELY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Blocks of 64 tokens: some that all prompts have, and some of a conversation.
    fn prompt(common: u64, conversation: u64, own: u64) -> Query {
        let blocks = (1..=common).chain((1..=own).map(|block| 1_000 * conversation + block));
        let blocks: Vec<u64> = blocks.collect();
        Query {
            prompt_tokens: 64 * blocks.len() as u32,
            blocks: blocks.into(),
            ..Query::default()
        }
    }

    #[test]
    fn common_is_what_different_conversations_share() {
        let mut rents = PrefixRents::default();
        let credit = |rents: &PrefixRents| rents.credit(&prompt(10, 3, 20), secs(0));
        rents.bound(&prompt(10, 1, 20), 0.1, secs(0));
        assert_eq!(credit(&rents).tokens, 0, "one prompt shares nothing");
        rents.bound(&prompt(10, 1, 25), 0.1, secs(0));
        assert_eq!(credit(&rents).tokens, 0, "it is the same conversation");
        rents.bound(&prompt(10, 2, 5), 0.1, secs(0));
        assert_eq!(credit(&rents).tokens, 640);
        rents.bound(&prompt(10, 2, 6), 0.1, secs(0));
        assert_eq!(credit(&rents).tokens, 640);
        assert!((credit(&rents).seconds - 0.4).abs() < 1e-9);
        let other = rents.credit(&prompt(0, 7, 20), secs(0));
        assert_eq!(other, PrefixCredit::default());
    }

    #[test]
    fn rents_are_spent_and_fade() {
        let mut rents = PrefixRents::default();
        let seconds = |rents: &PrefixRents, now| rents.credit(&prompt(10, 3, 20), now).seconds;
        rents.bound(&prompt(10, 1, 20), 2.0, secs(0));
        rents.bound(&prompt(10, 2, 20), -0.5, secs(0));
        assert!((seconds(&rents, secs(0)) - 1.5).abs() < 1e-9);
        assert!(seconds(&rents, secs(300)) < 0.02);
        rents.bound(&prompt(10, 1, 20), -9.0, secs(1));
        assert_eq!(seconds(&rents, secs(1)), 0.0);
    }

    #[test]
    fn first_blocks_and_their_depth_are_bounded() {
        let mut rents = PrefixRents::default();
        for conversation in 1..1_000 {
            rents.bound(&prompt(0, conversation, 2_000), 1.0, secs(conversation));
        }
        assert_eq!(rents.prefixes.len(), MOST);
        let deepest = rents.prefixes.values().map(|prefix| prefix.last.len());
        assert_eq!(deepest.max(), Some(DEPTH));
        rents.bound(&Query::default(), 1.0, secs(2_000));
        assert_eq!(rents.prefixes.len(), MOST, "a prompt without blocks");
    }
}
