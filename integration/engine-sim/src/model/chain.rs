//! Chained block hashes: block `i` is named by everything from the start of the prompt to its end.
//!
//! The root of a chain is made of what must keep two caches apart: the model or LoRA adapter and
//! the cache salt. Only full blocks have a hash. The hash function is ours (XXH3-64), not vLLM's:
//! nothing outside the engine sees these hashes.

use std::sync::Arc;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// The tokens of one sequence as block hashes, plus the tokens of the block that is still open.
#[derive(Clone, Debug)]
pub struct Chain {
    block_size: usize,
    hashes: Vec<u64>,
    open: Vec<u32>,
    last: u64,
    kept: Option<Kept>,
}

/// What only publishers of KV events need.
#[derive(Clone, Debug)]
struct Kept {
    tokens: Vec<u32>,
    salt: Option<Arc<str>>,
}

impl Chain {
    /// The chain of a prompt under `model` (a base model or an adapter) and an optional cache salt.
    pub fn new(model: &str, salt: Option<&str>, block_size: usize, tokens: &[u32]) -> Self {
        let mut last = root(model, salt);
        let blocks = tokens.chunks_exact(block_size);
        let open = blocks.remainder().to_vec();
        let hashes = blocks
            .map(|block| {
                last = link(last, block);
                last
            })
            .collect();
        Self {
            block_size,
            hashes,
            open,
            last,
            kept: None,
        }
    }

    /// Keeps the tokens and the salt of the prompt, which have to be those that it was made of.
    pub fn keep(self, tokens: &[u32], salt: Option<&str>) -> Self {
        Self {
            kept: Some(Kept {
                tokens: tokens.to_vec(),
                salt: salt.map(Arc::from),
            }),
            ..self
        }
    }

    /// The tokens of a full block, if they were kept.
    pub fn block(&self, index: usize) -> Option<&[u32]> {
        self.kept
            .as_ref()?
            .tokens
            .get(index * self.block_size..(index + 1) * self.block_size)
    }

    /// The salt, if it was kept and there is one.
    pub fn salt(&self) -> Option<Arc<str>> {
        self.kept.as_ref()?.salt.clone()
    }

    /// The chain of a prompt whose full blocks are named by an outside source, such as a trace.
    /// `own` is unlike that of any other prompt: what follows the named blocks, generated tokens
    /// included, is shared with no other prompt.
    pub fn named(block_size: usize, blocks: &[u64], prompt_tokens: usize, own: u64) -> Self {
        let open = vec![0; prompt_tokens % block_size];
        let last = root("", None) ^ xxh3_64(&own.to_le_bytes());
        let mut chain = Self {
            block_size,
            hashes: Vec::new(),
            open,
            last,
            kept: None,
        };
        let full = prompt_tokens / block_size;
        chain
            .hashes
            .extend_from_slice(&blocks[..blocks.len().min(full)]);
        while chain.hashes.len() < full {
            chain.last = link(chain.last, &[]);
            chain.hashes.push(chain.last);
        }
        chain
    }

    /// Appends one generated token.
    pub fn push(&mut self, token: u32) {
        self.open.push(token);
        if let Some(kept) = &mut self.kept {
            kept.tokens.push(token);
        }
        if self.open.len() == self.block_size {
            self.last = link(self.last, &self.open);
            self.hashes.push(self.last);
            self.open.clear();
        }
    }

    /// The hashes of the full blocks, first block first.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// A hash of the whole sequence, open block included.
    pub fn digest(&self) -> u64 {
        link(self.last, &self.open)
    }

    /// Tokens in the chain.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.hashes.len() * self.block_size + self.open.len()
    }
}

fn root(model: &str, salt: Option<&str>) -> u64 {
    let salt = salt.map_or(0, |salt| xxh3_64(salt.as_bytes()) | 1);
    xxh3_64(model.as_bytes()) ^ salt.rotate_left(17)
}

fn link(parent: u64, block: &[u32]) -> u64 {
    let mut bytes = [0; 512];
    let mut hasher = Xxh3::new();
    hasher.update(&parent.to_le_bytes());
    for tokens in block.chunks(bytes.len() / 4) {
        for (slot, token) in bytes.chunks_exact_mut(4).zip(tokens) {
            slot.copy_from_slice(&token.to_le_bytes());
        }
        hasher.update(&bytes[..tokens.len() * 4]);
    }
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn model_and_salt_keep_chains_apart() {
        let tokens: Vec<u32> = (0..8).collect();
        let plain = Chain::new("m", None, 4, &tokens);
        assert_ne!(
            plain.hashes(),
            Chain::new("lora", None, 4, &tokens).hashes()
        );
        assert_ne!(
            plain.hashes(),
            Chain::new("m", Some("tenant"), 4, &tokens).hashes()
        );
        assert_eq!(plain.hashes(), Chain::new("m", None, 4, &tokens).hashes());
    }

    #[test]
    fn named_blocks_are_shared_and_all_that_follows_is_not() {
        let [mut one, mut other] = [1, 2].map(|own| Chain::named(4, &[7, 8], 14, own));
        assert_eq!(
            (one.hashes()[..2].to_vec(), one.hashes().len()),
            (vec![7, 8], 3)
        );
        for chain in [&mut one, &mut other] {
            (0..2).for_each(|token| chain.push(token));
        }
        assert_eq!(one.hashes().len(), 4);
        assert!(
            one.hashes()[2..]
                .iter()
                .all(|hash| !other.hashes().contains(hash))
        );
    }

    proptest! {
        #[test]
        fn generated_tokens_continue_the_chain_of_the_prompt(
            tokens in proptest::collection::vec(any::<u32>(), 0..300), cut in 0usize..300, block_size in 1usize..200,
        ) {
            let cut = cut.min(tokens.len());
            let whole = Chain::new("m", None, block_size, &tokens);
            let mut grown = Chain::new("m", None, block_size, &tokens[..cut]);
            for token in &tokens[cut..] {
                grown.push(*token);
            }
            prop_assert_eq!(whole.hashes(), grown.hashes());
            prop_assert_eq!(whole.digest(), grown.digest());
            prop_assert_eq!(whole.len(), tokens.len());
        }
    }
}
