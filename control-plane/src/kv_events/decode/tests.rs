//! Both encodings of every event, as engines of different ages write them, and bytes that nobody wrote.

use hermes_core::residency::{Tier, content, link, root};
use proptest::prelude::*;
use rmp::encode;

use super::*;

/// An event as an engine means it.
#[derive(Clone, Debug)]
enum Meant {
    Stored(MeantStored),
    Removed {
        names: Vec<u64>,
        medium: Option<&'static str>,
        group: Option<u32>,
    },
    Cleared,
}

#[derive(Clone, Debug)]
struct MeantStored {
    names: Vec<u64>,
    parent: Option<u64>,
    tokens: Vec<u32>,
    block_size: u32,
    lora: Option<(i64, String)>,
    medium: Option<&'static str>,
    salt: Option<String>,
    /// Hash and offset of an image in the last block.
    image: Option<(String, u32)>,
    group: Option<u32>,
    kind: Option<&'static str>,
}

/// How an engine writes.
#[derive(Clone, Copy, Debug)]
struct Style {
    /// Maps with names, or arrays.
    named: bool,
    /// Names of blocks are digests of 32 bytes, not numbers.
    digests: bool,
    /// Fields at their defaults are left out.
    terse: bool,
}

fn text(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => encode::write_str(out, text).unwrap(),
        None => encode::write_nil(out).unwrap(),
    }
}

fn number(out: &mut Vec<u8>, number: Option<u64>) {
    match number {
        Some(number) => {
            encode::write_uint(out, number).unwrap();
        }
        None => encode::write_nil(out).unwrap(),
    }
}

impl Style {
    fn name(self, out: &mut Vec<u8>, name: u64) {
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

    fn names(self, names: &[u64]) -> Vec<u8> {
        let mut out = Vec::new();
        encode::write_array_len(&mut out, names.len() as u32).unwrap();
        names.iter().for_each(|name| self.name(&mut out, *name));
        out
    }

    /// Names, values and whether each is at its default.
    fn event(self, out: &mut Vec<u8>, tag: &str, mut fields: Vec<(&str, Vec<u8>, bool)>) {
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

    fn write(self, out: &mut Vec<u8>, meant: &Meant) {
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
    fn extra_keys(&self) -> Vec<u8> {
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

    fn expected(&self) -> Stored {
        let contents = self
            .tokens
            .chunks_exact(self.block_size as usize)
            .enumerate()
            .map(|(at, tokens)| {
                let mut extras = Extras::default();
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
        let stored = Stored {
            names: self.names.clone(),
            contents: contents.collect(),
            parent: self.parent,
            tier: tier(self.medium),
            group: self.group,
            attention: match self.kind {
                None => Attention::Unsaid,
                Some("full_attention") => Attention::Full,
                Some(_) => Attention::Partial,
            },
            ..Stored::default()
        };
        stored.rooted(self.block_size, adapter)
    }
}

fn tier(medium: Option<&str>) -> Tier {
    match medium {
        None | Some("GPU") => Tier::Gpu,
        Some("CPU" | "cpu" | "CPU_PINNED") => Tier::Host,
        Some(_) => Tier::Disk,
    }
}

fn payload(style: Style, events: &[Meant], rank: Option<Option<u64>>) -> Vec<u8> {
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

fn expected(events: &[Meant]) -> Vec<Event> {
    let event = |meant: &Meant| match meant {
        Meant::Stored(stored) => Event::Stored(stored.expected()),
        Meant::Removed {
            names,
            medium,
            group,
        } => Event::Removed(Removed {
            names: names.clone(),
            tier: tier(*medium),
            group: *group,
        }),
        Meant::Cleared => Event::Cleared,
    };
    events.iter().map(event).collect()
}

fn media() -> impl Strategy<Value = Option<&'static str>> {
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

fn meant() -> impl Strategy<Value = Meant> {
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

fn style() -> impl Strategy<Value = Style> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(named, digests, terse)| Style {
        named,
        digests,
        terse,
    })
}

proptest! {
    #[test]
    fn both_encodings_say_what_was_meant(
        events in proptest::collection::vec(meant(), 0..6), style in style(), rank in any::<Option<Option<u64>>>(),
    ) {
        let read = batch(&payload(style, &events, rank)).expect("a batch");
        prop_assert_eq!((read.unknown, read.unread_stored, read.unread_removed), (0, 0, 0));
        prop_assert_eq!(read.events, expected(&events));
    }

    #[test]
    fn a_payload_that_breaks_off_is_refused(
        events in proptest::collection::vec(meant(), 1..4), style in style(), cut in 0.0..1.0_f64,
    ) {
        let whole = payload(style, &events, None);
        let cut = (whole.len() as f64 * cut) as usize;
        prop_assert_eq!(batch(&whole[..cut]), Err(Malformed));
    }

    #[test]
    fn a_byte_that_was_changed_never_panics(
        events in proptest::collection::vec(meant(), 1..4), style in style(), at in 0.0..1.0_f64, byte: u8,
    ) {
        let mut bytes = payload(style, &events, None);
        let at = (bytes.len() as f64 * at) as usize;
        bytes[at] = byte;
        if let Ok(batch) = batch(&bytes) {
            for event in batch.events {
                let Event::Stored(stored) = event else { continue };
                prop_assert!(stored.contents.is_empty() || stored.contents.len() == stored.names.len());
            }
        }
    }

    #[test]
    fn any_bytes_are_a_batch_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _read = batch(&bytes);
    }
}

fn one(meant: Meant, named: bool) -> Batch {
    batch(&payload(
        Style {
            named,
            digests: false,
            terse: true,
        },
        &[meant],
        None,
    ))
    .expect("a batch")
}

fn simple() -> MeantStored {
    MeantStored {
        names: vec![11, 12],
        parent: None,
        tokens: vec![1, 2, 3, 4],
        block_size: 2,
        lora: None,
        medium: Some("GPU"),
        salt: None,
        image: None,
        group: None,
        kind: None,
    }
}

#[test]
fn the_very_old_form_ends_early() {
    let mut bytes = Vec::new();
    encode::write_array_len(&mut bytes, 2).unwrap();
    encode::write_f64(&mut bytes, 1.0).unwrap();
    encode::write_array_len(&mut bytes, 2).unwrap();
    encode::write_array_len(&mut bytes, 6).unwrap();
    text(&mut bytes, Some("BlockStored"));
    bytes.extend([0x92, 11, 12, 0xc0, 0x94, 1, 2, 3, 4, 2, 0xc0]);
    encode::write_array_len(&mut bytes, 2).unwrap();
    text(&mut bytes, Some("BlockRemoved"));
    bytes.extend([0x91, 11]);
    let removed = Removed {
        names: vec![11],
        tier: Tier::Gpu,
        group: None,
    };
    assert_eq!(
        batch(&bytes).expect("a batch").events,
        [Event::Stored(simple().expected()), Event::Removed(removed)]
    );
}

#[test]
fn an_adapter_of_which_only_a_number_is_told_matches_no_name() {
    let stored = MeantStored {
        lora: Some((7, "seven".to_owned())),
        ..simple()
    };
    let named = stored.expected();
    assert_eq!(named.root, root(2, Adapter::Name("seven")));
    let mut bytes = payload(
        Style {
            named: true,
            digests: false,
            terse: true,
        },
        &[Meant::Stored(stored)],
        None,
    );
    // The field's name is spoiled, as if the engine had none such.
    let at = bytes
        .windows(9)
        .position(|window| window == b"lora_name")
        .expect("the field");
    bytes[at] = b'x';
    let read = batch(&bytes).expect("a batch");
    let [Event::Stored(stored)] = &read.events[..] else {
        panic!("{read:?}")
    };
    assert_eq!(stored.root, root(2, Adapter::Number(7)));
}

#[test]
fn a_salt_counts_wherever_an_engine_puts_it() {
    let salted = one(
        Meant::Stored(MeantStored {
            salt: Some("tenant".to_owned()),
            ..simple()
        }),
        true,
    );
    let mut sglang = Vec::new();
    encode::write_array_len(&mut sglang, 2).unwrap();
    encode::write_f64(&mut sglang, 1.0).unwrap();
    encode::write_array_len(&mut sglang, 1).unwrap();
    encode::write_map_len(&mut sglang, 6).unwrap();
    text(&mut sglang, Some("type"));
    text(&mut sglang, Some("BlockStored"));
    text(&mut sglang, Some("block_hashes"));
    sglang.extend([0x92, 11, 12]);
    text(&mut sglang, Some("token_ids"));
    sglang.extend([0x94, 1, 2, 3, 4]);
    text(&mut sglang, Some("block_size"));
    sglang.push(2);
    text(&mut sglang, Some("medium"));
    text(&mut sglang, Some("GPU"));
    text(&mut sglang, Some("cache_salt"));
    text(&mut sglang, Some("tenant"));
    assert_eq!(batch(&sglang).expect("a batch"), salted);
    let first = Extras::salt("tenant").apply(content(&[1, 2]));
    let [Event::Stored(stored)] = &salted.events[..] else {
        panic!("{salted:?}")
    };
    assert_eq!(stored.contents, [first, content(&[3, 4])]);
    assert_ne!(
        link(stored.root, first),
        link(stored.root, content(&[1, 2]))
    );
}

#[test]
fn events_of_tomorrow_are_skipped_and_what_cannot_be_understood_is_counted() {
    let mut bytes = Vec::new();
    encode::write_array_len(&mut bytes, 2).unwrap();
    encode::write_f64(&mut bytes, 1.0).unwrap();
    encode::write_array_len(&mut bytes, 5).unwrap();
    let style = Style {
        named: true,
        digests: false,
        terse: true,
    };
    style.event(
        &mut bytes,
        "BlockMoved",
        vec![("block_hashes", style.names(&[1]), false)],
    );
    // Pairs of tokens, as with speculative decoding in SGLang.
    let pairs = vec![
        ("block_hashes", style.names(&[1]), false),
        ("token_ids", vec![0x91, 0x92, 1, 2], false),
        ("block_size", vec![1], false),
    ];
    style.event(&mut bytes, "BlockStored", pairs);
    style.event(&mut bytes, "BlockRemoved", Vec::new());
    bytes.push(0xc0);
    style.write(&mut bytes, &Meant::Cleared);
    let read = batch(&bytes).expect("a batch");
    assert_eq!(
        read,
        Batch {
            events: vec![Event::Cleared],
            unknown: 2,
            unread_stored: 1,
            unread_removed: 1
        }
    );
}

#[test]
fn tokens_that_do_not_fill_their_blocks_are_not_understood() {
    let stored = MeantStored {
        tokens: vec![1, 2, 3],
        ..simple()
    };
    assert_eq!(one(Meant::Stored(stored), false).unread_stored, 1);
    let huge = MeantStored {
        block_size: u32::MAX,
        ..simple()
    };
    assert_eq!(one(Meant::Stored(huge), true).unread_stored, 1);
}

#[test]
fn blocks_without_tokens_have_no_content() {
    let stored = MeantStored {
        tokens: Vec::new(),
        medium: Some("CPU"),
        block_size: 0,
        ..simple()
    };
    let read = one(Meant::Stored(stored), true);
    let [Event::Stored(stored)] = &read.events[..] else {
        panic!("{read:?}")
    };
    assert_eq!(
        (stored.names.len(), stored.contents.len(), stored.tier),
        (2, 0, Tier::Host)
    );
}

/// What a running vLLM published.
fn captured(label: &str) -> Batch {
    let lines = include_str!("vllm-0.32.0.hex").lines();
    let line = lines
        .filter_map(|line| line.strip_prefix(label))
        .find(|rest| rest.starts_with(' '))
        .expect("captured");
    let hex = line.rsplit(' ').next().expect("a payload").as_bytes();
    let digit = |digit: u8| char::from(digit).to_digit(16).expect("a hex digit") as u8;
    let payload: Vec<u8> = hex
        .chunks_exact(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect();
    batch(&payload).expect("a batch")
}

#[test]
fn what_a_real_vllm_published_is_understood() {
    let tokens: Vec<u32> = (100..164).collect();
    let expected = |names: [u64; 2], adapter: Adapter<'_>, salt: Option<&str>| {
        let first = salt
            .map(Extras::salt)
            .unwrap_or_default()
            .apply(content(&tokens[..32]));
        let contents = vec![first, content(&tokens[32..])];
        let stored = Stored {
            names: names.to_vec(),
            contents,
            group: Some(0),
            attention: Attention::Full,
            ..Stored::default()
        };
        Event::Stored(stored.rooted(32, adapter))
    };
    let plain = expected(
        [5_112_245_858_541_826_925, 2_169_733_828_878_548_103],
        Adapter::None,
        None,
    );
    assert_eq!(captured("plain").events, std::slice::from_ref(&plain));
    let salted = expected(
        [8_619_098_860_538_018_033, 11_594_349_764_229_991_644],
        Adapter::None,
        Some("s1"),
    );
    assert_eq!(captured("salt").events, [salted]);
    let adapter = Adapter::Name("tiny-lora");
    let adapted = expected(
        [1_167_260_533_311_686_955, 1_073_450_225_715_591_625],
        adapter,
        None,
    );
    assert_eq!(captured("lora").events, [adapted]);
    let both = expected(
        [11_511_274_554_140_595_079, 7_382_935_055_135_278_889],
        adapter,
        Some("s1"),
    );
    assert_eq!(captured("lora+salt").events, [both]);
    assert_eq!(captured("after-reset").events, [Event::Cleared, plain]);
}
