//! Single payloads: old forms, unknown events, unusable blocks, and what a real vLLM published.

use hermes_core::block_index::{
    Adapter, Attention, BlockEvent, ExtraKeys, RemovedBlocks, StoredBlocks, Tier, content, link,
    root,
};
use rmp::encode;

use super::{
    super::{Batch, batch},
    engine_encoder::{Meant, MeantStored, Style, payload, text},
};

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
    let removed = RemovedBlocks {
        names: vec![11],
        tier: Tier::Gpu,
        group: None,
    };
    assert_eq!(
        batch(&bytes).expect("a batch").events,
        [
            BlockEvent::Stored(simple().expected()),
            BlockEvent::Removed(removed)
        ]
    );
}

#[test]
fn an_adapter_with_a_number_and_no_name_matches_no_name() {
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
    let [BlockEvent::Stored(stored)] = &read.events[..] else {
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
    let first = ExtraKeys::salt("tenant").apply(content(&[1, 2]));
    let [BlockEvent::Stored(stored)] = &salted.events[..] else {
        panic!("{salted:?}")
    };
    assert_eq!(stored.contents, [first, content(&[3, 4])]);
    assert_ne!(
        link(stored.root, first),
        link(stored.root, content(&[1, 2]))
    );
}

#[test]
fn the_metadata_of_sglang_stands_in_the_place_of_the_adapters_name() {
    let salted = one(
        Meant::Stored(MeantStored {
            salt: Some("tenant".to_owned()),
            ..simple()
        }),
        true,
    );
    let metadata: [&[(&str, &str)]; 3] = [
        &[("cache_salt", "tenant")],
        &[("session_id", "s1"), ("cache_salt", "tenant")],
        &[("session_id", "s1")],
    ];
    for fields in metadata {
        let mut event = Vec::new();
        encode::write_array_len(&mut event, 2).unwrap();
        encode::write_f64(&mut event, 1.0).unwrap();
        encode::write_array_len(&mut event, 1).unwrap();
        encode::write_array_len(&mut event, 8).unwrap();
        text(&mut event, Some("BlockStored"));
        event.extend([0x92, 11, 12, 0xc0, 0x94, 1, 2, 3, 4, 2, 0xc0]);
        text(&mut event, Some("GPU"));
        encode::write_map_len(&mut event, fields.len() as u32).unwrap();
        for (name, value) in fields {
            text(&mut event, Some(name));
            text(&mut event, Some(value));
        }
        let read = batch(&event).expect("a batch");
        let is_salted = fields.iter().any(|(name, _)| *name == "cache_salt");
        let plain = one(Meant::Stored(simple()), true);
        assert_eq!(read, if is_salted { salted.clone() } else { plain });
    }
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
            events: vec![BlockEvent::Cleared],
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
    let [BlockEvent::Stored(stored)] = &read.events[..] else {
        panic!("{read:?}")
    };
    assert_eq!(
        (stored.names.len(), stored.contents.len(), stored.tier),
        (2, 0, Tier::Host)
    );
}

/// What a running vLLM published.
fn captured(label: &str) -> Batch {
    let lines = include_str!("../vllm-0.32.0.hex").lines();
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
            .map(ExtraKeys::salt)
            .unwrap_or_default()
            .apply(content(&tokens[..32]));
        let contents = vec![first, content(&tokens[32..])];
        let stored = StoredBlocks {
            names: names.to_vec(),
            contents,
            group: Some(0),
            attention: Attention::Full,
            ..StoredBlocks::default()
        };
        BlockEvent::Stored(stored.rooted(32, adapter))
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
    assert_eq!(captured("after-reset").events, [BlockEvent::Cleared, plain]);
}
