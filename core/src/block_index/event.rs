//! Changes of an engine's cache, independent of their encoding.

use super::{Adapter, Tier};

/// One change of one rank's cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockEvent {
    /// Blocks are in the cache now.
    Stored(StoredBlocks),
    /// Blocks are not in a tier any more.
    Removed(RemovedBlocks),
    /// Nothing is left in any tier.
    Cleared,
}

/// Blocks that follow each other in one prompt and are in a tier now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredBlocks {
    /// The engine's names of the blocks, in order.
    pub names: Vec<u64>,
    /// [`content`](super::content()) of each block, its extra keys applied; empty when the engine
    /// reports none, because they were stored in another tier before.
    pub contents: Vec<u64>,
    /// The engine's name of the block before the first; nothing at a prompt's start.
    pub parent: Option<u64>,
    /// Where a chain of such blocks begins, see [`root`](super::root).
    pub root: u64,
    /// Tokens in each block.
    pub block_tokens: u32,
    /// Where they are.
    pub tier: Tier,
    /// Which of the engine's KV-cache groups they belong to, if it reports them.
    pub group: Option<u32>,
    /// What that group's layers look at.
    pub attention: Attention,
}

/// Blocks that are not in a tier any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemovedBlocks {
    /// The engine's names of the blocks.
    pub names: Vec<u64>,
    /// Where they were.
    pub tier: Tier,
    /// The group that they belonged to, if the engine reports it.
    pub group: Option<u32>,
}

/// What the layers of a KV-cache group look at. Only a group that looks at everything says how long
/// a prefix is cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attention {
    /// The engine does not say.
    #[default]
    Unspecified,
    /// The whole prompt.
    Full,
    /// A window of it, or a state instead of blocks.
    Partial,
}

// === StoredBlocks ===

impl StoredBlocks {
    /// Says with which weights and in which size the blocks were computed.
    #[must_use]
    pub fn rooted(self, block_tokens: u32, adapter: Adapter<'_>) -> Self {
        Self {
            block_tokens,
            root: super::root(block_tokens, adapter),
            ..self
        }
    }
}
