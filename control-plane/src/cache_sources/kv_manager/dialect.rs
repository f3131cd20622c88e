//! The languages of KV managers: how a question is written, and how an answer is read. Everything
//! else about asking is the same for all.

use bytes::Bytes;
use hermes_core::query::CacheHit;
use xxhash_rust::xxh3::Xxh3;

use super::{Conductor, Encoding, Lookup, LookupKey, LookupOutcome, MatchSort};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `POST /match_sort`, by text.
    MatchSort(MatchSort),
    /// `POST /query`, by token ids.
    Conductor(Box<Conductor>),
}

// === Dialect ===

impl Dialect {
    /// Identifies the answer to `lookup`: questions of one key have the same.
    pub(super) fn key(&self, lookup: &Lookup) -> LookupKey {
        let mut hash = Xxh3::new();
        for part in [
            &*lookup.model,
            lookup.lora.as_deref().unwrap_or_default(),
            lookup.cache_salt.as_deref().unwrap_or_default(),
        ] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        match self {
            Self::MatchSort(_) => MatchSort::feed(lookup, &mut hash),
            Self::Conductor(conductor) => conductor.feed(lookup, &mut hash),
        }
        hash.digest128()
    }

    /// Whether there is anything to ask about.
    ///
    /// # Errors
    /// What is missing.
    pub(super) fn has_question(&self, lookup: &Lookup) -> Result<bool, LookupOutcome> {
        match self {
            Self::MatchSort(_) => Ok(!lookup.candidates.is_empty()),
            Self::Conductor(conductor) => {
                Ok(conductor.has_question(lookup)? && !lookup.candidates.is_empty())
            }
        }
    }

    /// Of questions and answers.
    pub(super) fn content_type(&self) -> &'static str {
        match self {
            Self::MatchSort(_) => MatchSort::CONTENT_TYPE,
            Self::Conductor(conductor) => conductor.content_type(),
        }
    }

    /// The body of the question.
    pub(super) fn question(&self, lookup: &Lookup) -> Result<Bytes, LookupOutcome> {
        match self {
            Self::MatchSort(_) => MatchSort::question(lookup),
            Self::Conductor(conductor) => conductor.question(lookup),
        }
    }

    /// What the answer to `lookup` says.
    ///
    /// # Errors
    /// Why it says nothing.
    pub fn hits(&self, answer: &[u8], lookup: &Lookup) -> Result<Vec<CacheHit>, LookupOutcome> {
        match self {
            Self::MatchSort(match_sort) => match_sort.hits(answer, lookup),
            Self::Conductor(conductor) => conductor.hits(answer, lookup),
        }
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::MatchSort(_) => "match-sort",
            Self::Conductor(conductor) => match conductor.encoding {
                Encoding::Json => "conductor",
                Encoding::Msgpack => "conductor-msgpack",
            },
        }
    }

    /// Whether it goes by token ids.
    #[must_use]
    pub fn needs_tokens(&self) -> bool {
        matches!(self, Self::Conductor(_))
    }
}

impl Default for Dialect {
    fn default() -> Self {
        Self::MatchSort(MatchSort::default())
    }
}
