//! One event, in either form: what it is, and where its fields stand. Fields are decoded on demand.

use hermes_core::block_index::Tier;

use super::{Malformed, MsgpackReader, MsgpackValue};

/// A field that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum EventField {
    BlockHashes,
    Parent,
    TokenIds,
    BlockSize,
    LoraId,
    Medium,
    LoraName,
    ExtraKeys,
    Group,
    SpecKind,
    CacheSalt,
    Type,
}

/// Where the fields of one event stand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EventFields<'a>([Option<MsgpackReader<'a>>; EventField::ALL.len()]);

/// The fields of one event, by its type.
pub(super) enum EventKind<'a> {
    Stored(EventFields<'a>),
    Removed(EventFields<'a>),
    Cleared,
    Unknown,
}

/// What the fields of the old form are, in order; those beyond are not read.
const STORED: [EventField; 10] = [
    EventField::BlockHashes,
    EventField::Parent,
    EventField::TokenIds,
    EventField::BlockSize,
    EventField::LoraId,
    EventField::Medium,
    EventField::LoraName,
    EventField::ExtraKeys,
    EventField::Group,
    EventField::SpecKind,
];
/// What a map of metadata in an event of the old form may have, as far as it is read.
const METADATA: [EventField; 2] = [EventField::CacheSalt, EventField::LoraName];
const REMOVED: [EventField; 3] = [
    EventField::BlockHashes,
    EventField::Medium,
    EventField::Group,
];

/// One of the engine's names: a number, or the last eight bytes of a digest.
fn name(value: MsgpackValue<'_>) -> Result<Option<u64>, Malformed> {
    match value {
        MsgpackValue::Nil => Ok(None),
        MsgpackValue::Int(name) => Ok(Some(name)),
        MsgpackValue::Bytes(digest) => match digest.last_chunk() {
            Some(last) => Ok(Some(u64::from_be_bytes(*last))),
            None => Err(Malformed),
        },
        _ => Err(Malformed),
    }
}

// === EventField ===

impl EventField {
    const ALL: [Self; 12] = [
        Self::BlockHashes,
        Self::Parent,
        Self::TokenIds,
        Self::BlockSize,
        Self::LoraId,
        Self::Medium,
        Self::LoraName,
        Self::ExtraKeys,
        Self::Group,
        Self::SpecKind,
        Self::CacheSalt,
        Self::Type,
    ];

    /// Its name in the new form.
    const fn name(self) -> &'static str {
        match self {
            Self::BlockHashes => "block_hashes",
            Self::Parent => "parent_block_hash",
            Self::TokenIds => "token_ids",
            Self::BlockSize => "block_size",
            Self::LoraId => "lora_id",
            Self::Medium => "medium",
            Self::LoraName => "lora_name",
            Self::ExtraKeys => "extra_keys",
            Self::Group => "group_idx",
            Self::SpecKind => "kv_cache_spec_kind",
            Self::CacheSalt => "cache_salt",
            Self::Type => "type",
        }
    }
}

// === EventKind ===

impl<'a> EventKind<'a> {
    /// Skips the next event, and says what it is and where its fields stand.
    pub(super) fn read(reader: &mut MsgpackReader<'a>) -> Result<Self, Malformed> {
        let mut event = reader.skip()?;
        match event.next()? {
            MsgpackValue::Map(pairs) => Self::of_map(event, pairs),
            MsgpackValue::Array(values) if values > 0 => Self::of_array(event, values),
            _ => Ok(Self::Unknown),
        }
    }

    fn of_map(mut event: MsgpackReader<'a>, pairs: u32) -> Result<Self, Malformed> {
        let mut fields = EventFields::default();
        fields.read_map(&mut event, pairs, &EventField::ALL)?;
        let tag = fields
            .get(EventField::Type)
            .and_then(|mut tag| tag.text().ok().flatten());
        Ok(Self::tagged(tag, |_| fields))
    }

    fn of_array(mut event: MsgpackReader<'a>, values: u32) -> Result<Self, Malformed> {
        let tag = event.skip()?.text().ok().flatten();
        let mut fields = EventFields::default();
        Ok(Self::tagged(tag, |order| {
            for field in order.iter().take(values as usize - 1) {
                fields.set(*field, event.skip().ok());
            }
            fields
        }))
    }

    fn tagged(tag: Option<&str>, fields: impl FnOnce(&[EventField]) -> EventFields<'a>) -> Self {
        match tag {
            Some("BlockStored") => Self::Stored(fields(&STORED)),
            Some("BlockRemoved") => Self::Removed(fields(&REMOVED)),
            Some("AllBlocksCleared") => Self::Cleared,
            _ => Self::Unknown,
        }
    }
}

// === EventFields ===

impl<'a> EventFields<'a> {
    /// Reads those of the `accepted` fields that a map has.
    fn read_map(
        &mut self,
        map: &mut MsgpackReader<'a>,
        pairs: u32,
        accepted: &[EventField],
    ) -> Result<(), Malformed> {
        for _ in 0..pairs {
            let name = map.next()?;
            let value = map.skip()?;
            let MsgpackValue::Text(name) = name else {
                continue;
            };
            let mut accepted = accepted.iter();
            if let Some(field) = accepted.find(|field| field.name().as_bytes() == name) {
                self.0[*field as usize] = Some(value);
            }
        }
        Ok(())
    }

    /// Sets a field of the old form. SGLang since 0.5.18 has a map of metadata where vLLM has the
    /// name of the adapter.
    fn set(&mut self, field: EventField, value: Option<MsgpackReader<'a>>) {
        if let (EventField::LoraName, Some(mut map)) = (field, value)
            && let Ok(MsgpackValue::Map(pairs)) = map.next()
        {
            // A map that breaks off is not skipped as a value.
            _ = self.read_map(&mut map, pairs, &METADATA);
            return;
        }
        self.0[field as usize] = value;
    }

    /// Where a field stands.
    pub(super) fn get(&self, field: EventField) -> Option<MsgpackReader<'a>> {
        self.0[field as usize]
    }

    pub(super) fn int(&self, field: EventField) -> Result<Option<u64>, Malformed> {
        self.get(field).map_or(Ok(None), |mut reader| reader.int())
    }

    pub(super) fn text(&self, field: EventField) -> Result<Option<&'a str>, Malformed> {
        self.get(field).map_or(Ok(None), |mut reader| reader.text())
    }

    pub(super) fn group(&self) -> Result<Option<u32>, Malformed> {
        self.int(EventField::Group)?
            .map(|group| u32::try_from(group).map_err(|_| Malformed))
            .transpose()
    }

    /// Where the blocks are. Old engines do not report it, and have one tier. An unknown medium
    /// counts as disk.
    pub(super) fn tier(&self) -> Result<Tier, Malformed> {
        Ok(match self.text(EventField::Medium)? {
            None | Some("GPU" | "gpu") => Tier::Gpu,
            Some("CPU" | "cpu" | "CPU_PINNED" | "cpu_pinned") => Tier::Host,
            Some(_) => Tier::Disk,
        })
    }

    /// The engine's name of the block before the first.
    pub(super) fn parent(&self) -> Result<Option<u64>, Malformed> {
        self.get(EventField::Parent)
            .map_or(Ok(None), |mut parent| name(parent.next()?))
    }

    /// The engine's names of all blocks.
    pub(super) fn names(&self) -> Result<Vec<u64>, Malformed> {
        let mut reader = self.get(EventField::BlockHashes).ok_or(Malformed)?;
        let blocks = reader.array()?.ok_or(Malformed)? as usize;
        let mut names = Vec::with_capacity(blocks.min(reader.left()));
        for _ in 0..blocks {
            names.push(name(reader.next()?)?.ok_or(Malformed)?);
        }
        Ok(names)
    }
}
