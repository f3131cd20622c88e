//! A prompt as a chain of block hashes: how both planes speak about prompts without sending them.
//!
//! ```text
//!   seed ── h0
//!            │   ┌── chunk 1 ──┬── chunk 2 ──┬── chunk 3 ──┬─ rest ┐
//!            │   │ tools ⟨sep⟩ system ⟨sep⟩ {"role":"user",…},{…    │   one stream of bytes
//!            ▼   └──────┬──────┴──────┬──────┴──────┬──────┴───────┘
//!           h0 ──mix──▶ h1 ──mix────▶ h2 ──mix────▶ h3                 h3 covers seed + chunks 1..=3
//! ```
//!
//! `h(i) = hash_mix(h(i-1), xxh3_64(chunk(i)))`, where `hash_mix` folds a 128-bit product. So equal
//! hashes mean equal seeds and equal bytes up to the end of that chunk, and a longer prompt begins
//! with the hashes of a shorter one.
//!
//! # Canonical form
//!
//! What is fed is the proxy's business, but all proxies must feed alike:
//! * seed: the format's version, the model's name (a LoRA adapter has its own) and the cache salt.
//!   Prompts that differ in one of these never share a block. Tenants without a salt do: their
//!   engine lets them share its cache, too;
//! * sections, in this order, each begun even when it is empty: tools, system prompt or
//!   instructions, and last the raw JSON text of the array of messages (or prompt, or input)
//!   without its outer brackets. Without the brackets, because a conversation's next turn appends
//!   `,{…}` to that text. Strings of encoded media (images, audio, files) of 4 KiB or more are
//!   replaced by fillers of 4 KiB, made of their hashes.
//!
//! Text counts byte by byte: other white space or another order of keys is a miss, never a false
//! hit.
//!
//! Invariants: only whole chunks are hashed; at most [`MAX_BLOCKS`] of them; every byte is read
//! once, and copied only when its chunk comes in pieces. The hashes resist accidents, not forgery:
//! they are hints for routing, nothing else.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::hash::hash_mix;

/// Blocks of one prompt at most; what comes after them is not hashed. 2 MiB of prompt at 256 bytes
/// a block.
pub const MAX_BLOCKS: usize = 8_192;

/// Begins every section. Never part of UTF-8 text, so no text can imitate the end of a section.
const SEPARATOR: u8 = 0xff;

/// Hashes one prompt while it is fed.
#[derive(Clone, Debug)]
pub struct HashChain {
    block_bytes: usize,
    /// The hash of everything before `rest`.
    previous: u64,
    /// The beginning of a chunk whose end has not come; shorter than `block_bytes`.
    rest: Vec<u8>,
    blocks: Vec<u64>,
    fed: u64,
}

impl HashChain {
    /// A chain for prompts under this seed, cut every `block_bytes` (at least 1).
    ///
    /// The parts stay apart: `["ab", "c"]` and `["a", "bc"]` are different seeds.
    #[must_use]
    pub fn new(seed_parts: &[&[u8]], block_bytes: usize) -> Self {
        let previous = seed_parts
            .iter()
            .fold(seed_parts.len() as u64, |seed, part| {
                hash_mix(seed, xxh3_64(part))
            });
        Self {
            block_bytes: block_bytes.max(1),
            previous,
            rest: Vec::new(),
            blocks: Vec::new(),
            fed: 0,
        }
    }

    /// Begins a section and feeds its first bytes; [`Self::feed`] adds more.
    pub fn section(&mut self, bytes: &[u8]) {
        self.feed(&[SEPARATOR]);
        self.feed(bytes);
    }

    /// Feeds the next bytes of the current section.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.fed += bytes.len() as u64;
        let bytes = self.complete(bytes);
        if self.is_full() {
            return;
        }
        let mut chunks = bytes.chunks_exact(self.block_bytes);
        for chunk in chunks.by_ref().take(MAX_BLOCKS - self.blocks.len()) {
            self.push(xxh3_64(chunk));
        }
        if !self.is_full() {
            self.rest.extend_from_slice(chunks.remainder());
        }
    }

    /// Bytes fed so far, separators included: the prompt's length in its canonical form.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.fed
    }

    /// The hashes so far.
    #[must_use]
    pub fn blocks(&self) -> &[u64] {
        &self.blocks
    }

    /// The hashes of all whole chunks, in order.
    #[must_use]
    pub fn finish(self) -> Arc<[u64]> {
        self.blocks.into()
    }

    /// Gives an unfinished chunk the bytes it lacks, and returns the others.
    fn complete<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if self.rest.is_empty() || self.is_full() {
            return bytes;
        }
        let (lacking, others) = bytes.split_at(bytes.len().min(self.block_bytes - self.rest.len()));
        self.rest.extend_from_slice(lacking);
        if self.rest.len() == self.block_bytes {
            self.push(xxh3_64(&self.rest));
            self.rest.clear();
        }
        others
    }

    fn push(&mut self, chunk: u64) {
        self.previous = hash_mix(self.previous, chunk);
        self.blocks.push(self.previous);
    }

    fn is_full(&self) -> bool {
        self.blocks.len() == MAX_BLOCKS
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::Index};

    use super::*;

    const SEED: [&[u8]; 4] = [b"1", b"model", b"", b"tenant"];

    fn hashes(seed: &[&[u8]], prompt: &[u8], block_bytes: usize) -> Arc<[u64]> {
        let mut chain = HashChain::new(seed, block_bytes);
        chain.feed(prompt);
        chain.finish()
    }

    #[test]
    fn hashes_never_change_between_releases() {
        let mut chain = HashChain::new(&SEED, 16);
        chain.section(b"[]");
        chain.section(b"You are terse.");
        chain.section(br#"{"role":"user","content":"Why is the sky blue?"}"#);
        assert_eq!(chain.bytes(), 3 + 2 + 14 + 48);
        let golden = [
            0x7c2f_daba_2e12_642a,
            0xb9c8_decb_d267_f999,
            0xc72f_dbaf_8fce_aa1d,
            0xc76d_090d_b6ab_0895,
        ];
        assert_eq!(chain.blocks(), golden);
    }

    #[test]
    fn the_next_turn_of_a_conversation_keeps_the_blocks_of_the_last() {
        let turn = br#"{"role":"user","content":"Why is the sky blue?"}"#;
        let next =
            br#",{"role":"assistant","content":"Rayleigh scattering."},{"role":"user","content":"And sunsets?"}"#;
        let (mut short, mut long) = (HashChain::new(&SEED, 8), HashChain::new(&SEED, 8));
        for chain in [&mut short, &mut long] {
            chain.section(b"[]");
            chain.section(turn);
        }
        long.feed(next);
        assert_eq!(short.blocks(), &long.blocks()[..short.blocks().len()]);
        assert_eq!(short.blocks().len(), (1 + 2 + 1 + turn.len()) / 8);
    }

    #[test]
    fn text_that_moves_to_another_section_is_another_prompt() {
        let (mut one, mut other) = (HashChain::new(&SEED, 4), HashChain::new(&SEED, 4));
        one.section(b"ab");
        one.section(b"cd");
        other.section(b"abc");
        other.section(b"d");
        assert_ne!(one.blocks(), other.blocks());
    }

    #[test]
    fn seed_parts_do_not_run_into_each_other() {
        let prompt = [7; 64];
        let seeds: [&[&[u8]]; 4] = [
            &[b"ab", b"c"],
            &[b"a", b"bc"],
            &[b"abc"],
            &[b"ab", b"c", b""],
        ];
        let first: std::collections::HashSet<u64> = seeds
            .iter()
            .map(|seed| hashes(seed, &prompt, 64)[0])
            .collect();
        assert_eq!(first.len(), seeds.len());
    }

    #[test]
    fn a_prompt_beyond_the_bound_is_hashed_up_to_it() {
        let bound = hashes(&SEED, &vec![1; MAX_BLOCKS * 2], 2);
        assert_eq!(bound.len(), MAX_BLOCKS);
        let mut pieces = HashChain::new(&SEED, 2);
        (0..MAX_BLOCKS + 10).for_each(|_| pieces.feed(&[1, 1, 1]));
        assert_eq!(pieces.blocks(), &*bound);
        assert!(pieces.rest.len() < 2);
        assert_eq!(pieces.bytes(), 3 * (MAX_BLOCKS as u64 + 10));
    }

    proptest! {
        #[test]
        fn pieces_hash_like_the_whole(
            prompt in proptest::collection::vec(any::<u8>(), 0..2_000),
            cuts in proptest::collection::vec(any::<Index>(), 0..10),
            block_bytes in 1..300usize,
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(prompt.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(prompt.len());
            let mut chain = HashChain::new(&SEED, block_bytes);
            let mut start = 0;
            for cut in cuts {
                chain.feed(&prompt[start..cut]);
                start = cut;
            }
            let whole = hashes(&SEED, &prompt, block_bytes);
            prop_assert_eq!(whole.len(), prompt.len() / block_bytes);
            prop_assert_eq!(chain.blocks(), &*whole);
        }

        #[test]
        fn a_longer_prompt_begins_with_the_blocks_of_a_shorter(
            prompt in proptest::collection::vec(any::<u8>(), 0..2_000),
            end in any::<Index>(),
        ) {
            let short = hashes(&SEED, &prompt[..end.index(prompt.len() + 1)], 64);
            prop_assert_eq!(&*short, &hashes(&SEED, &prompt, 64)[..short.len()]);
        }

        #[test]
        fn one_changed_byte_changes_its_block_and_all_later_ones(
            prompt in proptest::collection::vec(any::<u8>(), 64..2_000),
            place in any::<Index>(),
        ) {
            let place = place.index(prompt.len());
            let mut changed = prompt.clone();
            changed[place] ^= 0x20;
            let (old, new) = (hashes(&SEED, &prompt, 64), hashes(&SEED, &changed, 64));
            for (block, (old, new)) in old.iter().zip(new.iter()).enumerate() {
                prop_assert_eq!(old == new, block < place / 64);
            }
        }

        #[test]
        fn another_seed_shares_no_block(salt in "[a-z]{1,8}", prompt in proptest::collection::vec(any::<u8>(), 64..1_000)) {
            let salted: [&[u8]; 4] = [b"1", b"model", salt.as_bytes(), b"tenant"];
            let (plain, salted) = (hashes(&SEED, &prompt, 64), hashes(&salted, &prompt, 64));
            prop_assert!(plain.iter().zip(salted.iter()).all(|(plain, salted)| plain != salted));
        }
    }
}
