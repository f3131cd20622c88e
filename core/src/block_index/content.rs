//! Our own names for blocks: chained hashes over token ids, the same for every engine, seed and
//! hash algorithm.
//!
//! ```text
//!   root = mix(mix(FORMAT, block size in tokens), adapter)
//!             │
//!             ▼
//!   block(0) = link(root,     content(0))     link(a, b) = mix(a, b) with the low three bits cleared
//!   block(1) = link(block(0), content(1))     content    = the block's tokens, see below, and if it has extra keys
//!   …                                                      mix(content, extra keys)
//! ```
//!
//! `hash_mix` is the folded 128-bit product of [`crate::hash`]. Equal names mean equal block size,
//! adapter, tokens and extra keys, from the prompt's start to the end of that block. The extra keys
//! are what engines add to their own hash so that caches stay apart: the salt of a tenant (first
//! block only, as one text), the hashes of images, and whatever comes next. A text prompt has none
//! but its salt, so it never meets a block that was made with any other.
//!
//! A block's tokens are taken in pairs, the first in the low half of a word. Word `j` is mixed into
//! lane `j % 4`, of four lanes that begin with 0 to 3, and `content =
//! hash_mix(hash_mix(hash_mix(lane 0, lane 1), hash_mix(lane 2, lane 3)), number of tokens)`.
//!
//! The low three bits stay free, because the index keeps the tiers of a block there. Names live in
//! one process and are never sent, so the format may change with any release.

use xxhash_rust::xxh3::xxh3_64;

use super::TierSet;
use crate::hash::hash_mix;

/// Changes whenever the meaning of a name does.
const FORMAT: u64 = 1;

/// Which weights a block was computed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Adapter<'a> {
    /// The base model.
    #[default]
    None,
    /// A LoRA adapter, by the name that clients use.
    Name(&'a str),
    /// A LoRA adapter that an old engine reports by number only: no prompt ever matches it.
    Number(i64),
}

/// The extra keys of one block, hashed while they are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExtraKeys {
    any: bool,
    hash: u64,
}

/// Where every chain of this block size and adapter begins.
#[must_use]
pub fn root(block_tokens: u32, adapter: Adapter<'_>) -> u64 {
    let adapter = match adapter {
        Adapter::None => 0,
        Adapter::Name(name) => hash_mix(1, xxh3_64(name.as_bytes())),
        Adapter::Number(number) => hash_mix(2, number.cast_unsigned()),
    };
    hash_mix(hash_mix(FORMAT, block_tokens.into()), adapter)
}

/// What one block holds, wherever it stands.
#[must_use]
pub fn content(tokens: &[u32]) -> u64 {
    // Four lanes, because the steps of one would wait for each other.
    let [mut a, mut b, mut c, mut d] = [0, 1, 2, 3];
    let (pieces, rest) = tokens.as_chunks::<8>();
    for piece in pieces {
        let [t0, t1, t2, t3, t4, t5, t6, t7] = *piece;
        (a, b, c, d) = (
            hash_mix(a, pair(t0, t1)),
            hash_mix(b, pair(t2, t3)),
            hash_mix(c, pair(t4, t5)),
            hash_mix(d, pair(t6, t7)),
        );
    }
    for (lane, tokens) in [&mut a, &mut b, &mut c, &mut d]
        .into_iter()
        .zip(rest.chunks(2))
    {
        *lane = hash_mix(
            *lane,
            pair(tokens[0], tokens.get(1).copied().unwrap_or_default()),
        );
    }
    hash_mix(
        hash_mix(hash_mix(a, b), hash_mix(c, d)),
        tokens.len() as u64,
    )
}

const fn pair(first: u32, second: u32) -> u64 {
    first as u64 | (second as u64) << 32
}

/// The name of the block with this content that follows `parent`, or a root.
#[must_use]
pub fn link(parent: u64, content: u64) -> u64 {
    hash_mix(parent, content) & !TierSet::MASK
}

// === ExtraKeys ===

impl ExtraKeys {
    /// Of the first block of a prompt whose cache has this salt.
    #[must_use]
    pub fn salt(salt: &str) -> Self {
        let mut extras = Self::default();
        extras.text(salt.as_bytes());
        extras
    }

    /// The next key is text, in UTF-8.
    pub fn text(&mut self, text: &[u8]) {
        self.push(hash_mix(1, xxh3_64(text)));
    }

    /// The next key is bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.push(hash_mix(2, xxh3_64(bytes)));
    }

    /// The next key is a number, by its bits.
    pub fn number(&mut self, bits: u64) {
        self.push(hash_mix(3, bits));
    }

    /// The next key is nothing.
    pub fn nil(&mut self) {
        self.push(4);
    }

    /// The next key is a list or a mapping; its `items` keys and values follow.
    pub fn list(&mut self, items: u64) {
        self.push(hash_mix(5, items));
    }

    /// `content`, distinct from that of the same tokens under other keys.
    #[must_use]
    pub fn apply(self, content: u64) -> u64 {
        if self.any {
            hash_mix(content, self.hash)
        } else {
            content
        }
    }

    fn push(&mut self, key: u64) {
        self.any = true;
        self.hash = hash_mix(self.hash, key);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(size: u32, adapter: Adapter<'_>, salt: Option<&str>, tokens: &[u32]) -> Vec<u64> {
        let mut parent = root(size, adapter);
        let blocks = tokens
            .chunks_exact(size as usize)
            .enumerate()
            .map(|(at, block)| {
                let extras = salt
                    .filter(|_| at == 0)
                    .map(ExtraKeys::salt)
                    .unwrap_or_default();
                parent = link(parent, extras.apply(content(block)));
                parent
            });
        blocks.collect()
    }

    #[test]
    fn names_are_as_documented() {
        let golden = [0x3634_e6e8_15b1_db40, 0xef0d_3cad_24d9_dd58];
        assert_eq!(
            chain(4, Adapter::None, None, &[1, 2, 3, 4, 5, 6, 7, 8]),
            golden
        );
        let lanes = [hash_mix(0, pair(1, 2)), hash_mix(1, pair(3, 4)), 2, 3];
        let first = hash_mix(
            hash_mix(hash_mix(lanes[0], lanes[1]), hash_mix(lanes[2], lanes[3])),
            4,
        );
        assert_eq!(golden[0], hash_mix(hash_mix(hash_mix(1, 4), 0), first) & !7);
    }

    #[test]
    fn a_token_more_less_or_elsewhere_is_another_content() {
        let tokens: Vec<u32> = (0..40).collect();
        let mut seen = std::collections::HashSet::new();
        for length in 0..=tokens.len() {
            assert!(seen.insert(content(&tokens[..length])), "{length}");
        }
        for at in 1..tokens.len() {
            let mut swapped = tokens.clone();
            swapped.swap(at - 1, at);
            assert!(seen.insert(content(&swapped)), "{at}");
        }
        assert_ne!(content(&[1]), content(&[1, 0]));
    }

    #[test]
    fn keys_of_different_kinds_are_different_keys() {
        let one = |push: fn(&mut ExtraKeys)| {
            let mut extras = ExtraKeys::default();
            push(&mut extras);
            extras.apply(7)
        };
        let all = [
            one(|_| ()),
            one(|extras| extras.text(b"7")),
            one(|extras| extras.bytes(b"7")),
            one(|extras| extras.number(7)),
            one(ExtraKeys::nil),
            one(|extras| extras.list(1)),
        ];
        let different: std::collections::HashSet<u64> = all.into_iter().collect();
        assert_eq!(different.len(), all.len());
    }

    proptest! {
        #[test]
        fn another_adapter_salt_or_block_size_shares_no_block(
            tokens in proptest::collection::vec(any::<u32>(), 32..200), name in "[a-z]{1,8}",
        ) {
            let plain = chain(16, Adapter::None, None, &tokens);
            let others = [
                chain(16, Adapter::Name(&name), None, &tokens),
                chain(16, Adapter::Number(1), None, &tokens),
                chain(16, Adapter::None, Some(&name), &tokens),
                chain(8, Adapter::None, None, &tokens),
            ];
            for other in others {
                prop_assert!(plain.iter().all(|block| !other.contains(block)));
            }
        }

        #[test]
        fn the_low_bits_are_free(parent: u64, content: u64) {
            prop_assert_eq!(link(parent, content) & TierSet::MASK, 0);
        }
    }
}
