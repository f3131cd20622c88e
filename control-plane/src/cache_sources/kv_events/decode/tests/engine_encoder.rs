//! An engine's side: events as it means them, and every form in which it may write them.

use hermes_core::block_index::{
    Adapter, Attention, BlockEvent, ExtraKeys, RemovedBlocks, StoredBlocks, Tier, content,
};
use proptest::prelude::*;
use rmp::encode;

/// An event as an engine means it.
#[derive(Clone, Debug)]
pub(super) enum Meant {
    Stored(MeantStored),
    Removed {
        names: Vec<u64>,
        medium: Option<&'static str>,
        group: Option<u32>,
    },
    Cleared,
}

#[derive(Clone, Debug)]
pub(super) struct MeantStored {
    pub(super) names: Vec<u64>,
    pub(super) parent: Option<u64>,
    pub(super) tokens: Vec<u32>,
    pub(super) block_size: u32,
    pub(super) lora: Option<(i64, String)>,
    pub(super) medium: Option<&'static str>,
    pub(super) salt: Option<String>,
    /// Hash and offset of an image in the last block.
    pub(super) image: Option<(String, u32)>,
    pub(super) group: Option<u32>,
    pub(super) kind: Option<&'static str>,
}

/// How an engine writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// Maps with names, or arrays.
    pub(super) named: bool,
    /// Names of blocks are digests of 32 bytes, not numbers.
    pub(super) digests: bool,
    /// EventFields at their defaults are left out.
    pub(super) terse: bool,
}

pub(super) fn text(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => encode::write_str(out, text).unwrap(),
        None => encode::write_nil(out).unwrap(),
    }
}

pub(super) fn number(out: &mut Vec<u8>, number: Option<u64>) {
    match number {
        Some(number) => {
            encode::write_uint(out, number).unwrap();
        }
        None => encode::write_nil(out).unwrap(),
    }
}

impl Style {
    pub(super) fn name(self, out: &mut Vec<u8>, name: u64) {
        if self.digests {
            let mut digest = vec![7; 24];
            digest.extend(name.to_be_bytes());
            encode::write_bin(out, &digest).unwrap();
        } else if name >> 63 == 1 && name & 1 == 1 {
            encode::write_sint(out, name.cast_signed()).unwrap();
        } else {
            encode::write_uint(out, name).unwrap();
        }
    }

    pub(super) fn names(self, names: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        encode::write_array_len(&mut out, names.len() as u32).unwrap();
        names.iter().for_each(|name| self.name(&mut out, *name));
        out
    }

    /// Names, values and whether each is at its default.
    pub(super) fn event(
        self,
        out: &mut Vec<u8>,
        tag: &str,
        mut fields: Vec<(&str, Vec<u8>, bool)>,
    ) {
        if self.named {
            fields.retain(|(_, _, default)| !(self.terse && *default));
            encode::write_map_len(out, fields.len() as u32 + 2).unwrap();
            [("type", tag), ("session_id", "a field of tomorrow")]
                .iter()
                .for_each(|(name, value)| {
                    text(out, Some(name));
                    text(out, Some(value));
                });
            fields.iter().for_each(|(name, value, _)| {
                text(out, Some(name));
                out.extend(value);
            });
        } else {
            while self.terse && fields.last().is_some_and(|(_, _, default)| *default) {
                fields.pop();
            }
            encode::write_array_len(out, fields.len() as u32 + 1).unwrap();
            text(out, Some(tag));
            fields.iter().for_each(|(_, value, _)| out.extend(value));
        }
    }

    pub(super) fn write(self, out: &mut Vec<u8>, meant: &Meant) {
        let optional_text = |value: Option<&str>| {
            let mut out = Vec::new();
            text(&mut out, value);
            out
        };
        let optional_number = |value: Option<u64>| {
            let mut out = Vec::new();
            number(&mut out, value);
            out
        };
        match meant {
            Meant::Cleared => self.event(out, "AllBlocksCleared", Vec::new()),
            Meant::Removed {
                names,
                medium,
                group,
            } => {
                let group_bytes = optional_number(group.map(u64::from));
                let fields = vec![
                    ("block_hashes", self.names(names), false),
                    ("medium", optional_text(*medium), medium.is_none()),
                    ("group_idx", group_bytes, group.is_none()),
                ];
                self.event(out, "BlockRemoved", fields);
            }
            Meant::Stored(stored) => {
                let MeantStored {
                    names,
                    parent,
                    tokens,
                    block_size,
                    lora,
                    medium,
                    group,
                    kind,
                    ..
                } = stored;
                let mut parent_bytes = Vec::new();
                match parent {
                    Some(parent) => self.name(&mut parent_bytes, *parent),
                    None => encode::write_nil(&mut parent_bytes).unwrap(),
                }
                let mut token_bytes = Vec::new();
                encode::write_array_len(&mut token_bytes, tokens.len() as u32).unwrap();
                for token in tokens {
                    encode::write_uint(&mut token_bytes, (*token).into()).unwrap();
                }
                let lora_id = optional_number(lora.as_ref().map(|(id, _)| id.cast_unsigned()));
                let fields = vec![
                    ("block_hashes", self.names(names), false),
                    ("parent_block_hash", parent_bytes, false),
                    ("token_ids", token_bytes, false),
                    (
                        "block_size",
                        optional_number(Some((*block_size).into())),
                        false,
                    ),
                    ("lora_id", lora_id, false),
                    ("medium", optional_text(*medium), false),
                    (
                        "lora_name",
                        optional_text(lora.as_ref().map(|(_, name)| &**name)),
                        false,
                    ),
                    ("extra_keys", stored.extra_keys(), false),
                    (
                        "group_idx",
                        optional_number(group.map(u64::from)),
                        group.is_none(),
                    ),
                    ("kv_cache_spec_kind", optional_text(*kind), kind.is_none()),
                ];
                self.event(out, "BlockStored", fields);
            }
        }
    }
}

impl MeantStored {
    /// As vLLM lists them: adapter, images, and the salt in the first block of a prompt.
    pub(super) fn extra_keys(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode::write_array_len(&mut out, self.names.len() as u32).unwrap();
        for at in 0..self.names.len() {
            let image = self.image.as_ref().filter(|_| at + 1 == self.names.len());
            let salt = self
                .salt
                .as_deref()
                .filter(|_| at == 0 && self.parent.is_none());
            let keys = [self.lora.is_some(), image.is_some(), salt.is_some()]
                .iter()
                .filter(|there| **there)
                .count();
            if keys == 0 {
                encode::write_nil(&mut out).unwrap();
                continue;
            }
            encode::write_array_len(&mut out, keys as u32).unwrap();
            if let Some((_, name)) = &self.lora {
                encode::write_str(&mut out, name).unwrap();
            }
            if let Some((hash, offset)) = image {
                encode::write_array_len(&mut out, 2).unwrap();
                encode::write_str(&mut out, hash).unwrap();
                encode::write_uint(&mut out, (*offset).into()).unwrap();
            }
            if let Some(salt) = salt {
                encode::write_str(&mut out, salt).unwrap();
            }
        }
        out
    }

    pub(super) fn expected(&self) -> StoredBlocks {
        let contents = self
            .tokens
            .chunks_exact(self.block_size as usize)
            .enumerate()
            .map(|(at, tokens)| {
                let mut extras = ExtraKeys::default();
                if let Some((hash, offset)) =
                    self.image.as_ref().filter(|_| at + 1 == self.names.len())
                {
                    extras.list(2);
                    extras.text(hash.as_bytes());
                    extras.number((*offset).into());
                }
                if let Some(salt) = self
                    .salt
                    .as_deref()
                    .filter(|_| at == 0 && self.parent.is_none())
                {
                    extras.text(salt.as_bytes());
                }
                extras.apply(content(tokens))
            });
        let adapter = self
            .lora
            .as_ref()
            .map_or(Adapter::None, |(_, name)| Adapter::Name(name));
        let stored = StoredBlocks {
            names: self.names.clone(),
            contents: contents.collect(),
            parent: self.parent,
            tier: tier(self.medium),
            group: self.group,
            attention: match self.kind {
                None => Attention::Unspecified,
                Some("full_attention") => Attention::Full,
                Some(_) => Attention::Partial,
            },
            ..StoredBlocks::default()
        };
        stored.rooted(self.block_size, adapter)
    }
}

pub(super) fn tier(medium: Option<&str>) -> Tier {
    match medium {
        None | Some("GPU") => Tier::Gpu,
        Some("CPU" | "cpu" | "CPU_PINNED") => Tier::Host,
        Some(_) => Tier::Disk,
    }
}

pub(super) fn payload(style: Style, events: &[Meant], rank: Option<Option<u64>>) -> Vec<u8> {
    let mut out = Vec::new();
    encode::write_array_len(&mut out, 2 + u32::from(rank.is_some())).unwrap();
    encode::write_f64(&mut out, 1_795_320_107.155).unwrap();
    encode::write_array_len(&mut out, events.len() as u32).unwrap();
    events.iter().for_each(|event| style.write(&mut out, event));
    if let Some(rank) = rank {
        number(&mut out, rank);
    }
    out
}

pub(super) fn expected(events: &[Meant]) -> Vec<BlockEvent> {
    let event = |meant: &Meant| match meant {
        Meant::Stored(stored) => BlockEvent::Stored(stored.expected()),
        Meant::Removed {
            names,
            medium,
            group,
        } => BlockEvent::Removed(RemovedBlocks {
            names: names.clone(),
            tier: tier(*medium),
            group: *group,
        }),
        Meant::Cleared => BlockEvent::Cleared,
    };
    events.iter().map(event).collect()
}

pub(super) fn media() -> impl Strategy<Value = Option<&'static str>> {
    proptest::sample::select(vec![
        None,
        Some("GPU"),
        Some("CPU"),
        Some("cpu"),
        Some("CPU_PINNED"),
        Some("DISK"),
        Some("new"),
    ])
}

pub(super) fn meant() -> impl Strategy<Value = Meant> {
    let stored = (1..5usize, 1..20u32).prop_flat_map(|(blocks, block_size)| {
        let names = proptest::collection::vec(any::<u64>(), blocks);
        let tokens = proptest::collection::vec(any::<u32>(), blocks * block_size as usize);
        let lora = proptest::option::of((1..100i64, "[a-z]{1,40}"));
        let image = proptest::option::of(("[0-9a-f]{8}", any::<u32>()));
        let kinds =
            proptest::sample::select(vec![None, Some("full_attention"), Some("sliding_window")]);
        let group = proptest::option::of(0..3u32);
        let named = (
            names,
            tokens,
            proptest::option::of(any::<u64>()),
            lora,
            media(),
        );
        (
            named,
            proptest::option::of("[a-z]{1,9}"),
            image,
            group,
            kinds,
        )
            .prop_map(move |(named, salt, image, group, kind)| {
                let (names, tokens, parent, lora, medium) = named;
                Meant::Stored(MeantStored {
                    names,
                    parent,
                    tokens,
                    block_size,
                    lora,
                    medium,
                    salt,
                    image,
                    group,
                    kind,
                })
            })
    });
    let removed = (
        proptest::collection::vec(any::<u64>(), 0..5),
        media(),
        proptest::option::of(0..3u32),
    );
    prop_oneof![
        4 => stored,
        3 => removed.prop_map(|(names, medium, group)| Meant::Removed { names, medium, group }),
        1 => Just(Meant::Cleared),
    ]
}

pub(super) fn style() -> impl Strategy<Value = Style> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(named, digests, terse)| Style {
        named,
        digests,
        terse,
    })
}
