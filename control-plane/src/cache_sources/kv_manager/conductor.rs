//! The dialects of Mooncake's conductor, and of indexers that follow it: `POST /query`, by token
//! ids.
//!
//! | protocol | question and answer | where it comes from |
//! |---|---|---|
//! | `conductor` | JSON | the conductor in Go, and the documented API; Dynamo's indexer |
//! | `conductor-msgpack` | msgpack | the conductor in C++ |
//!
//! A conductor counts whole blocks of tokens. It knows servers by `instance_id`, which may be an
//! address, a host, a pod, or whatever the operator called it. Endpoints that are missing from an
//! answer hold nothing.

mod answer;
mod plain;
mod question;
mod register;

use std::sync::Arc;

use bytes::Bytes;
use hermes_core::query::CacheHit;
use xxhash_rust::xxh3::Xxh3;

use super::{Lookup, LookupOutcome};

pub(super) use self::register::EngineRegistration;
pub use self::register::{Registration, Source};

/// How deep an answer in msgpack may be nested; the reader of JSON has a limit of its own.
const MAX_DEPTH: usize = 32;

/// How a conductor is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conductor {
    /// JSON or msgpack.
    pub encoding: Encoding,
    /// Whose caches.
    pub tenant: Arc<str>,
    /// The model's name there; the request's when absent.
    pub model: Option<Arc<str>>,
    /// The adapter's name for requests that name none.
    pub lora: Option<Arc<str>>,
    /// The salt for requests that have none.
    pub cache_salt: Option<Arc<str>>,
    /// Tokens in a block; what the engines say when absent.
    pub block_size: Option<u32>,
    /// Instances by their names there, each with the authority of its endpoint. The usual names
    /// need none.
    pub instances: Vec<(Arc<str>, Arc<str>)>,
    /// Registers at the conductor where the engines publish their events.
    pub register: Option<Registration>,
}

/// How bodies are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// JSON.
    #[default]
    Json,
    /// msgpack: ids as little-endian words of four bytes.
    Msgpack,
}

/// The part of a prompt that a conductor can know, and in which blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PromptBlocks<'a> {
    /// Ids of whole blocks; not empty.
    ids: &'a [u32],
    /// Tokens in a block.
    size: u32,
}

// === Conductor ===

impl Conductor {
    pub(super) fn content_type(&self) -> &'static str {
        self.encoding.content_type()
    }

    /// What two questions have to share to have one answer: their whole blocks.
    pub(super) fn feed(&self, lookup: &Lookup, hash: &mut Xxh3) {
        let Ok(Some(blocks)) = self.blocks(lookup) else {
            return;
        };
        hash.update(&blocks.size.to_le_bytes());
        blocks
            .ids
            .iter()
            .for_each(|id| hash.update(&id.to_le_bytes()));
    }

    /// Whether there is anything to ask about: a prompt shorter than a block is cached nowhere.
    pub(super) fn has_question(&self, lookup: &Lookup) -> Result<bool, LookupOutcome> {
        self.blocks(lookup).map(|blocks| blocks.is_some())
    }

    pub(super) fn question(&self, lookup: &Lookup) -> Result<Bytes, LookupOutcome> {
        let blocks = self.blocks(lookup)?.ok_or(LookupOutcome::NoTokens)?;
        question::body(self, lookup, blocks)
    }

    pub(super) fn hits(
        &self,
        answer: &[u8],
        lookup: &Lookup,
    ) -> Result<Vec<CacheHit>, LookupOutcome> {
        let blocks = self.blocks(lookup)?.ok_or(LookupOutcome::NoTokens)?;
        answer::hits(self, answer, lookup, blocks)
    }

    fn blocks<'a>(&self, lookup: &'a Lookup) -> Result<Option<PromptBlocks<'a>>, LookupOutcome> {
        let ids = lookup.token_ids.as_deref().ok_or(LookupOutcome::NoTokens)?;
        let size = self
            .block_size
            .or(lookup.block_size)
            .filter(|size| *size > 0)
            .ok_or(LookupOutcome::NoBlockSize)?;
        let whole = ids.len() - ids.len() % size as usize;
        Ok((whole > 0).then(|| PromptBlocks {
            ids: &ids[..whole],
            size,
        }))
    }
}

impl Default for Conductor {
    fn default() -> Self {
        Self {
            encoding: Encoding::Json,
            tenant: "default".into(),
            model: None,
            lora: None,
            cache_salt: None,
            block_size: None,
            instances: Vec::new(),
            register: None,
        }
    }
}

// === Encoding ===

impl Encoding {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Msgpack => "application/msgpack",
        }
    }

    fn write(self, value: &impl serde::Serialize) -> Result<Bytes, LookupOutcome> {
        match self {
            Self::Json => serde_json::to_vec(value)
                .map(Bytes::from)
                .map_err(|_| LookupOutcome::Malformed),
            Self::Msgpack => rmp_serde::to_vec_named(value)
                .map(Bytes::from)
                .map_err(|_| LookupOutcome::Malformed),
        }
    }

    fn read<'a, T: serde::Deserialize<'a>>(self, bytes: &'a [u8]) -> Result<T, LookupOutcome> {
        match self {
            Self::Json => serde_json::from_slice(bytes).map_err(|_| LookupOutcome::Garbage),
            Self::Msgpack => {
                let mut reader = rmp_serde::Deserializer::from_read_ref(bytes);
                reader.set_max_depth(MAX_DEPTH);
                T::deserialize(&mut reader).map_err(|_| LookupOutcome::Garbage)
            }
        }
    }
}

#[cfg(test)]
mod fixture;
