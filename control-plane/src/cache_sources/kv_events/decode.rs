//! The payload of one message: a batch of events, as vLLM and SGLang publish them.
//!
//! ```text
//!   [timestamp, [event, …], data-parallel rank?]
//!
//!   event   since vLLM 0.24, SGLang 0.5.23   {"type": "BlockStored", "block_hashes": […], …}    defaults are left out
//!           before                           ["BlockStored", block_hashes, parent, token_ids, …]   the end is left out
//! ```
//!
//! | event | fields, in the order of the old form |
//! |---|---|
//! | `BlockStored` | `block_hashes parent_block_hash token_ids block_size lora_id medium lora_name extra_keys group_idx kv_cache_spec_kind` |
//! | `BlockRemoved` | `block_hashes medium group_idx` |
//! | `AllBlocksCleared` | none |
//!
//! Hashes are numbers (SGLang's may be negative) or bytes, of which the last eight count. SGLang
//! has a field `cache_salt` where vLLM puts the salt among the extra keys of the first block; in
//! its old form the field is in a map in the place of `lora_name`. EventFields that are not in the
//! table are skipped, and so are events of other types. An event of a known type that cannot be
//! understood is counted, and the rest of the batch is read on.

mod fields;

use hermes_core::block_index::{
    self, Adapter, Attention, BlockEvent, ExtraKeys, RemovedBlocks, StoredBlocks,
};

use self::fields::{EventField, EventFields, EventKind};
pub use super::msgpack::Malformed;
use super::msgpack::{MsgpackReader, MsgpackValue};

/// What one message says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In order.
    pub events: Vec<BlockEvent>,
    /// Events of types that are not known.
    pub unknown: u32,
    /// Stored blocks that could not be understood: they are missing.
    pub unread_stored: u32,
    /// Removed blocks that could not be decoded: the index may hold blocks that are gone.
    pub unread_removed: u32,
}

/// Largest block, in tokens, that is accepted.
const MAX_BLOCK: u64 = 1 << 20;

/// Reads a payload.
///
/// # Errors
/// When it is no batch at all, or breaks off.
pub fn batch(payload: &[u8]) -> Result<Batch, Malformed> {
    let mut reader = MsgpackReader::new(payload);
    let fields = reader.array()?.ok_or(Malformed)?;
    if fields < 2 {
        return Err(Malformed);
    }
    reader.skip()?;
    let events = reader.array()?.ok_or(Malformed)?;
    let mut batch = Batch::default();
    for _ in 0..events {
        match EventKind::read(&mut reader)? {
            EventKind::Stored(fields) => match stored(&fields) {
                Ok(stored) => batch.events.push(BlockEvent::Stored(stored)),
                Err(Malformed) => batch.unread_stored += 1,
            },
            EventKind::Removed(fields) => match removed(&fields) {
                Ok(removed) => batch.events.push(BlockEvent::Removed(removed)),
                Err(Malformed) => batch.unread_removed += 1,
            },
            EventKind::Cleared => batch.events.push(BlockEvent::Cleared),
            EventKind::Unknown => batch.unknown += 1,
        }
    }
    Ok(batch)
}

/// The data-parallel rank that a payload is about; 0 if it names none.
///
/// # Errors
/// As [`batch`].
pub fn rank(payload: &[u8]) -> Result<u32, Malformed> {
    let mut reader = MsgpackReader::new(payload);
    let fields = reader.array()?.ok_or(Malformed)?;
    if fields < 2 {
        return Err(Malformed);
    }
    reader.skip()?;
    reader.skip()?;
    let rank = if fields > 2 { reader.int()? } else { None };
    u32::try_from(rank.unwrap_or_default()).map_err(|_| Malformed)
}

fn stored(fields: &EventFields<'_>) -> Result<StoredBlocks, Malformed> {
    let names = fields.names()?;
    let group = fields.group()?;
    let attention = match fields.text(EventField::SpecKind)? {
        None => Attention::Unspecified,
        Some("full_attention" | "mla_attention" | "sink_full_attention") => Attention::Full,
        Some(_) => Attention::Partial,
    };
    let parent = fields.parent()?;
    let block_tokens = fields
        .int(EventField::BlockSize)?
        .filter(|size| *size <= MAX_BLOCK)
        .ok_or(Malformed)? as usize;
    let lora_id = fields.int(EventField::LoraId)?;
    let adapter = match (fields.text(EventField::LoraName)?, lora_id) {
        (Some(name), _) => Adapter::Name(name),
        (None, Some(number)) => Adapter::Number(number.cast_signed()),
        (None, None) => Adapter::None,
    };
    let contents = contents(fields, names.len(), block_tokens, adapter, parent.is_none())?;
    let stored = StoredBlocks {
        names,
        contents,
        parent,
        tier: fields.tier()?,
        group,
        attention,
        ..StoredBlocks::default()
    };
    Ok(stored.rooted(block_tokens as u32, adapter))
}

fn removed(fields: &EventFields<'_>) -> Result<RemovedBlocks, Malformed> {
    Ok(RemovedBlocks {
        names: fields.names()?,
        tier: fields.tier()?,
        group: fields.group()?,
    })
}

/// What each block holds; nothing when the event has no tokens.
fn contents(
    fields: &EventFields<'_>,
    blocks: usize,
    block_tokens: usize,
    adapter: Adapter<'_>,
    is_first: bool,
) -> Result<Vec<u64>, Malformed> {
    let Some(mut reader) = fields.get(EventField::TokenIds) else {
        return Ok(Vec::new());
    };
    let listed = reader.array()?.unwrap_or_default() as usize;
    if listed == 0 {
        return Ok(Vec::new());
    }
    if block_tokens == 0
        || blocks.checked_mul(block_tokens) != Some(listed)
        || listed > reader.left()
    {
        return Err(Malformed);
    }
    let mut contents = Vec::with_capacity(blocks);
    let mut tokens = Vec::with_capacity(block_tokens);
    for _ in 0..blocks {
        tokens.clear();
        for _ in 0..block_tokens {
            let token = reader.int()?.and_then(|token| u32::try_from(token).ok());
            tokens.push(token.ok_or(Malformed)?);
        }
        contents.push(block_index::content(&tokens));
    }
    apply_extra_keys(fields, &mut contents, adapter, is_first)?;
    Ok(contents)
}

/// Lets the extra keys of each block enter its content. The adapter's name is not one: it is in the
/// chain's root.
fn apply_extra_keys(
    fields: &EventFields<'_>,
    contents: &mut [u64],
    adapter: Adapter<'_>,
    is_first: bool,
) -> Result<(), Malformed> {
    let lists = match fields.get(EventField::ExtraKeys) {
        Some(mut reader) => reader.array()?.map(|lists| (reader, lists)),
        None => None,
    };
    let Some((mut reader, lists)) = lists else {
        let salt = if is_first {
            fields.text(EventField::CacheSalt)?
        } else {
            None
        };
        if let (Some(salt), Some(first)) = (salt, contents.first_mut()) {
            *first = ExtraKeys::salt(salt).apply(*first);
        }
        return Ok(());
    };
    if lists as usize != contents.len() {
        return Err(Malformed);
    }
    for content in contents {
        *content = extras(&mut reader, adapter)?.apply(*content);
    }
    Ok(())
}

/// The extra keys of one block: nil, or a list in which the adapter's name comes first if there is
/// one.
fn extras(reader: &mut MsgpackReader<'_>, adapter: Adapter<'_>) -> Result<ExtraKeys, Malformed> {
    let mut extras = ExtraKeys::default();
    let Some(keys) = reader.array()? else {
        return Ok(extras);
    };
    let mut left = u64::from(keys);
    let mut is_first = true;
    while left > 0 {
        left -= 1;
        let key = reader.next()?;
        if !(std::mem::take(&mut is_first) && is_adapter(key, adapter)) {
            match key {
                MsgpackValue::Nil => extras.nil(),
                MsgpackValue::Bool(value) => extras.number(value.into()),
                MsgpackValue::Int(value) => extras.number(value),
                MsgpackValue::Float(value) => extras.number(value.to_bits()),
                MsgpackValue::Text(text) => extras.text(text),
                MsgpackValue::Bytes(bytes) => extras.bytes(bytes),
                MsgpackValue::Array(items) => {
                    extras.list(items.into());
                    left += u64::from(items);
                }
                MsgpackValue::Map(pairs) => {
                    extras.list(pairs.into());
                    left += 2 * u64::from(pairs);
                }
            }
        }
    }
    Ok(extras)
}

fn is_adapter(key: MsgpackValue<'_>, adapter: Adapter<'_>) -> bool {
    match (key, adapter) {
        (MsgpackValue::Text(text), Adapter::Name(name)) => text == name.as_bytes(),
        (MsgpackValue::Int(bits), Adapter::Number(number)) => bits.cast_signed() == number,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
