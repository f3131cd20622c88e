//! The dialect of the original hermes-router: `POST /match_sort`, by the prompt's text.

mod answer;
mod request;

use std::sync::Arc;

use bytes::Bytes;
use hermes_core::query::CacheHit;
use xxhash_rust::xxh3::Xxh3;

use super::{Lookup, LookupOutcome, Text};

pub use self::answer::{DEFAULT_ID_KEYS, DEFAULT_SCORE_KEYS};

/// How answers are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MatchSort {
    /// Keys of an answer's row that may name an endpoint, in order of preference; empty for
    /// [`DEFAULT_ID_KEYS`].
    pub id_keys: Vec<Arc<str>>,
    /// Keys of an answer's row that may hold its score, in order of preference; empty for
    /// [`DEFAULT_SCORE_KEYS`].
    pub score_keys: Vec<Arc<str>>,
}

// === MatchSort ===

impl MatchSort {
    /// With the usual keys, by name.
    #[must_use]
    pub fn named() -> Self {
        let named = |keys: &[&str]| keys.iter().copied().map(Arc::from).collect();
        Self {
            id_keys: named(&DEFAULT_ID_KEYS),
            score_keys: named(&DEFAULT_SCORE_KEYS),
        }
    }

    pub(super) const CONTENT_TYPE: &str = "application/json";

    /// What two questions have to share to have one answer: the prompt's whole blocks, or else all
    /// of its text.
    pub(super) fn feed(lookup: &Lookup, hash: &mut Xxh3) {
        match (lookup.prefix, &lookup.text) {
            (Some(prefix), _) => hash.update(&prefix.to_le_bytes()),
            (None, Text::Prompt(raw) | Text::Messages(raw)) => hash.update(raw),
        }
    }

    pub(super) fn question(lookup: &Lookup) -> Result<Bytes, LookupOutcome> {
        request::body(lookup)
    }

    pub(super) fn hits(
        &self,
        answer: &[u8],
        lookup: &Lookup,
    ) -> Result<Vec<CacheHit>, LookupOutcome> {
        answer::hits(answer, lookup, self)
    }
}
