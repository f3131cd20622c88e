//! Batches of events as MessagePack, in the form of vLLM 0.32 or in the one before 0.24.

use rmp::encode;

use super::Encoding;
use crate::model::cache_events::{CacheEvent, Stored};

/// The payload of one batch: `[timestamp, [event, …], rank]`.
pub(super) fn payload(
    encoding: Encoding,
    timestamp: f64,
    block_size: usize,
    events: &[CacheEvent],
) -> Vec<u8> {
    let mut out = Writer(Vec::new());
    out.array(3);
    out.float(timestamp);
    out.array(events.len());
    for event in events {
        match encoding {
            Encoding::Maps => out.map_event(event, block_size),
            Encoding::Arrays => out.array_event(event, block_size),
        }
    }
    out.number(0);
    out.0
}

/// Writing into memory does not fail.
struct Writer(Vec<u8>);

impl Writer {
    fn map_event(&mut self, event: &CacheEvent, block_size: usize) {
        match event {
            CacheEvent::Cleared => {
                self.map(1);
                self.field("type", |out| out.text("AllBlocksCleared"));
            }
            CacheEvent::Removed(hash) => {
                self.map(4);
                self.field("type", |out| out.text("BlockRemoved"));
                self.field("block_hashes", |out| out.numbers(&[*hash]));
                self.field("medium", |out| out.text("GPU"));
                self.field("group_idx", |out| out.number(0));
            }
            CacheEvent::Stored(stored) => {
                let Stored {
                    hashes,
                    parent,
                    tokens,
                    adapter,
                    ..
                } = stored;
                self.map(11);
                self.field("type", |out| out.text("BlockStored"));
                self.field("block_hashes", |out| out.numbers(hashes));
                self.field("parent_block_hash", |out| out.optional_number(*parent));
                self.field("token_ids", |out| out.tokens(tokens));
                self.field("block_size", |out| out.number(block_size as u64));
                self.field("lora_id", |out| {
                    out.optional_number(adapter.as_ref().map(|_| 1));
                });
                self.field("medium", |out| out.text("GPU"));
                self.field("lora_name", |out| out.optional_text(adapter.as_deref()));
                self.field("extra_keys", |out| out.extra_keys(stored));
                self.field("group_idx", |out| out.number(0));
                self.field("kv_cache_spec_kind", |out| out.text("full_attention"));
            }
        }
    }

    fn array_event(&mut self, event: &CacheEvent, block_size: usize) {
        match event {
            CacheEvent::Cleared => {
                self.array(1);
                self.text("AllBlocksCleared");
            }
            CacheEvent::Removed(hash) => {
                self.array(3);
                self.text("BlockRemoved");
                self.numbers(&[*hash]);
                self.text("GPU");
            }
            CacheEvent::Stored(stored) => {
                let Stored {
                    hashes,
                    parent,
                    tokens,
                    adapter,
                    ..
                } = stored;
                self.array(9);
                self.text("BlockStored");
                self.numbers(hashes);
                self.optional_number(*parent);
                self.tokens(tokens);
                self.number(block_size as u64);
                self.optional_number(adapter.as_ref().map(|_| 1));
                self.text("GPU");
                self.optional_text(adapter.as_deref());
                self.extra_keys(stored);
            }
        }
    }

    /// One list for each block, or nil: the adapter's name, and the salt in the first block of a
    /// prompt.
    fn extra_keys(&mut self, stored: &Stored) {
        let Stored {
            hashes,
            parent,
            adapter,
            salt,
            ..
        } = stored;
        self.array(hashes.len());
        for block in 0..hashes.len() {
            let salt = salt.as_deref().filter(|_| block == 0 && parent.is_none());
            let keys: Vec<&str> = adapter.as_deref().into_iter().chain(salt).collect();
            if keys.is_empty() {
                self.nil();
            } else {
                self.array(keys.len());
                keys.iter().for_each(|key| self.text(key));
            }
        }
    }

    fn field(&mut self, name: &str, value: impl FnOnce(&mut Self)) {
        self.text(name);
        value(self);
    }

    fn array(&mut self, length: usize) {
        encode::write_array_len(&mut self.0, length as u32).expect("memory takes all bytes");
    }

    fn map(&mut self, length: u32) {
        encode::write_map_len(&mut self.0, length).expect("memory takes all bytes");
    }

    fn text(&mut self, text: &str) {
        encode::write_str(&mut self.0, text).expect("memory takes all bytes");
    }

    fn number(&mut self, number: u64) {
        encode::write_uint(&mut self.0, number).expect("memory takes all bytes");
    }

    fn float(&mut self, number: f64) {
        encode::write_f64(&mut self.0, number).expect("memory takes all bytes");
    }

    fn nil(&mut self) {
        encode::write_nil(&mut self.0).expect("memory takes all bytes");
    }

    fn optional_text(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.text(text),
            None => self.nil(),
        }
    }

    fn optional_number(&mut self, number: Option<u64>) {
        match number {
            Some(number) => self.number(number),
            None => self.nil(),
        }
    }

    fn numbers(&mut self, numbers: &[u64]) {
        self.array(numbers.len());
        numbers.iter().for_each(|number| self.number(*number));
    }

    fn tokens(&mut self, tokens: &[u32]) {
        self.array(tokens.len());
        tokens.iter().for_each(|token| self.number((*token).into()));
    }
}

#[cfg(test)]
mod tests {
    use hermes_control_plane::cache_sources::kv_events::decode;
    use hermes_core::block_index::{Adapter, BlockEvent, ExtraKeys, content, root};

    use super::*;

    #[test]
    fn the_router_understands_both_forms_alike() {
        let stored = Stored {
            hashes: vec![u64::MAX, 7],
            parent: None,
            tokens: vec![1, 2, 3, 4],
            adapter: Some("adapter".into()),
            salt: Some("salt".into()),
        };
        let events = [
            CacheEvent::Stored(stored),
            CacheEvent::Removed(7),
            CacheEvent::Cleared,
        ];
        for encoding in [Encoding::Maps, Encoding::Arrays] {
            let batch = decode::batch(&payload(encoding, 1.5, 2, &events)).expect("a batch");
            let [
                BlockEvent::Stored(stored),
                BlockEvent::Removed(removed),
                BlockEvent::Cleared,
            ] = &batch.events[..]
            else {
                panic!("{batch:?}")
            };
            assert_eq!(stored.root, root(2, Adapter::Name("adapter")));
            assert_eq!(
                stored.contents,
                [
                    ExtraKeys::salt("salt").apply(content(&[1, 2])),
                    content(&[3, 4])
                ]
            );
            assert_eq!(
                (&stored.names[..], &removed.names[..]),
                (&[u64::MAX, 7][..], &[7][..])
            );
        }
    }
}
