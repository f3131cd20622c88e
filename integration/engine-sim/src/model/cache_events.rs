//! The changes of the block cache, recorded step by step, as vLLM publishes them.

use std::sync::Arc;

use crate::model::chain::Chain;

/// One change of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CacheEvent {
    Stored(Stored),
    /// One block each, as vLLM does it.
    Removed(u64),
    Cleared,
}

/// Blocks of one sequence that became full in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) hashes: Vec<u64>,
    pub(crate) parent: Option<u64>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) adapter: Option<Arc<str>>,
    pub(crate) salt: Option<Arc<str>>,
}

/// The events since they were last taken. Records nothing while no publisher runs.
#[derive(Debug, Default)]
pub(crate) struct CacheEventLog {
    runs: bool,
    events: Vec<CacheEvent>,
}

impl CacheEventLog {
    /// Begins to write.
    pub(crate) fn start(&mut self) {
        self.runs = true;
    }

    /// Block number `index` of this chain is in the cache now.
    pub(crate) fn stored(&mut self, chain: &Chain, index: usize, adapter: Option<&Arc<str>>) {
        let (Some(hash), Some(tokens)) = (chain.hashes().get(index), chain.block(index)) else {
            return;
        };
        if !self.runs {
            return;
        }
        let parent = index.checked_sub(1).map(|before| chain.hashes()[before]);
        if let Some(CacheEvent::Stored(last)) = self.events.last_mut()
            && parent.is_some()
            && last.hashes.last() == parent.as_ref()
        {
            last.hashes.push(*hash);
            last.tokens.extend_from_slice(tokens);
            return;
        }
        self.events.push(CacheEvent::Stored(Stored {
            hashes: vec![*hash],
            parent,
            tokens: tokens.to_vec(),
            adapter: adapter.cloned(),
            salt: chain.salt(),
        }));
    }

    /// Blocks made room for others.
    pub(crate) fn removed(&mut self, hashes: impl IntoIterator<Item = u64>) {
        if self.runs {
            self.events
                .extend(hashes.into_iter().map(CacheEvent::Removed));
        }
    }

    /// The cache is empty.
    pub(crate) fn cleared(&mut self) {
        if self.runs {
            self.events.push(CacheEvent::Cleared);
        }
    }

    /// The events since the last call.
    pub(crate) fn take(&mut self) -> Vec<CacheEvent> {
        std::mem::take(&mut self.events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_follow_each_other_are_one_event() {
        let tokens: Vec<u32> = (0..9).collect();
        let chain = Chain::new("m", Some("s"), 2, &tokens).keep(&tokens, Some("s"));
        let mut events = CacheEventLog::default();
        events.stored(&chain, 0, None);
        assert!(events.take().is_empty(), "no publisher runs");
        events.start();
        [0, 1, 3]
            .iter()
            .for_each(|index| events.stored(&chain, *index, None));
        events.removed([7, 8]);
        let events = events.take();
        let [
            CacheEvent::Stored(first),
            CacheEvent::Stored(second),
            CacheEvent::Removed(7),
            CacheEvent::Removed(8),
        ] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!(
            (&first.hashes[..], first.parent, &first.tokens[..]),
            (&chain.hashes()[..2], None, &tokens[..4])
        );
        assert_eq!(
            (second.parent, &second.tokens[..]),
            (Some(chain.hashes()[2]), &tokens[6..8])
        );
    }
}
