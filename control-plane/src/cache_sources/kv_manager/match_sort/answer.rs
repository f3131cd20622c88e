//! Reads a manager's answer, whichever of the known shapes it has.
//!
//! The format of `/match_sort` is not published, and its relatives (the conductor's indexers)
//! differ from release to release. All of these are read, also inside each other:
//!
//! * a list of rows, `[{"pod_ip": "10.0.0.7", "match_rate": 0.5}]`, or of pairs,
//!   `[["10.0.0.7:8000", 0.5]]`;
//! * a map from id to score, `{"10.0.0.7:8000": 0.5}`, or from id to row, `{"chat-0":
//!   {"longest_matched": 256}}`;
//! * either of them under `data`, `matches`, `results`, `pods` or `instances`, or under a tenant's
//!   name.
//!
//! An id is an authority, a host alone, a URL, or a pod's name. What a score means follows from its
//! key and size:
//!
//! | key | value | meaning |
//! |---|---|---|
//! | `longest_matched`, `matched_tokens`, … (contains `matched` or `token`) | any | tokens |
//! | `match_rate`, `hit_rate`, … (contains `rate`, `ratio` or `percent`) | 0..=1 | share of the prompt |
//! | the same | above 1, to 100 | percent of the prompt |
//! | any other, and a map's bare number | 0..=1 | share of the prompt |
//! | the same | above 1 | tokens |

use std::sync::Arc;

use hermes_core::query::{CacheHit, CacheSource, CachedTokens};
use serde_json::{Map, Value};

use super::{LookupOutcome, MatchSort};
use crate::cache_sources::kv_manager::{Lookup, LookupCandidate, names::InstanceNames};

/// Keys that name an endpoint, unless others are configured.
pub const DEFAULT_ID_KEYS: [&str; 9] = [
    "pod_ip",
    "podIP",
    "ip",
    "address",
    "endpoint",
    "instance",
    "instance_id",
    "name",
    "pod",
];

/// Keys that hold a score, unless others are configured.
pub const DEFAULT_SCORE_KEYS: [&str; 6] = [
    "match_rate",
    "hit_rate",
    "score",
    "match",
    "longest_matched",
    "matched_tokens",
];

/// Keys under which the rows may stand.
const ENVELOPES: [&str; 5] = ["data", "matches", "results", "pods", "instances"];

/// How deep rows may stand: envelope, tenant, row, and one to spare.
const MAX_DEPTH: usize = 4;

/// Most rows of an answer that are read.
const MAX_ROWS: usize = 10_000;

/// Reads `answer` to `lookup`.
///
/// # Errors
/// [`LookupOutcome::Garbage`] when it is no JSON or has no row in a known shape,
/// [`LookupOutcome::Unknown`] when it has rows and none is about a candidate. An empty list or map
/// is no error: no endpoint holds a block.
pub(super) fn hits(
    answer: &[u8],
    lookup: &Lookup,
    settings: &MatchSort,
) -> Result<Vec<CacheHit>, LookupOutcome> {
    let answer: Value = serde_json::from_slice(answer).map_err(|_| LookupOutcome::Garbage)?;
    let mut reader = MatchSortReader {
        id_keys: keys(&settings.id_keys, &DEFAULT_ID_KEYS),
        score_keys: keys(&settings.score_keys, &DEFAULT_SCORE_KEYS),
        names: InstanceNames::of(&lookup.candidates),
        prompt_tokens: lookup.prompt_tokens,
        rows: 0,
        best: vec![None; lookup.candidates.len()],
    };
    reader.read(&answer, MAX_DEPTH);
    reader.finish(&lookup.candidates, is_empty(&answer))
}

fn keys<'a>(configured: &'a [Arc<str>], default: &[&'static str]) -> Vec<&'a str> {
    if configured.is_empty() {
        default.to_vec()
    } else {
        configured.iter().map(|key| &**key).collect()
    }
}

/// Whether there is not one row: `[]`, `{}`, `null`, or an envelope around one of them.
fn is_empty(answer: &Value) -> bool {
    match answer {
        Value::Null => true,
        Value::Array(rows) => rows.is_empty(),
        Value::Object(map) => map.is_empty() || envelope(map).is_some_and(is_empty),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// What stands in the first envelope of `map`.
fn envelope(map: &Map<String, Value>) -> Option<&Value> {
    ENVELOPES.iter().find_map(|key| {
        map.get(*key)
            .filter(|rows| rows.is_array() || rows.is_object())
    })
}

/// One pass over an answer.
struct MatchSortReader<'a> {
    id_keys: Vec<&'a str>,
    score_keys: Vec<&'a str>,
    names: InstanceNames<'a>,
    prompt_tokens: u32,
    /// Rows so far, of any endpoint.
    rows: usize,
    /// Tokens per candidate; the most of several rows about one (ranks of one server).
    best: Vec<Option<u32>>,
}

// === MatchSortReader ===

impl MatchSortReader<'_> {
    fn read(&mut self, value: &Value, depth: usize) {
        if depth == 0 {
            return;
        }
        match value {
            Value::Array(rows) => rows.iter().for_each(|row| self.read_item(row, depth)),
            Value::Object(map) => self.read_map(map, depth),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// One item of a list: a pair, a row, or something that holds rows.
    fn read_item(&mut self, item: &Value, depth: usize) {
        let Some([Value::String(id), score]) = item.as_array().map(Vec::as_slice) else {
            self.read(item, depth - 1);
            return;
        };
        if let Some(score) = number(score) {
            self.row(id, "", score);
        }
    }

    fn read_map(&mut self, map: &Map<String, Value>, depth: usize) {
        let id = self.id_keys.iter().find_map(|key| map.get(*key)?.as_str());
        if let (Some(id), Some((key, score))) = (id, self.score(map)) {
            self.row(id, &key, score);
            return;
        }
        if let Some(rows) = envelope(map) {
            self.read(rows, depth - 1);
            return;
        }
        for (id, value) in map {
            let inner = value.as_object().and_then(|row| self.score(row));
            match (number(value), inner) {
                (Some(score), _) => self.row(id, "", score),
                (None, Some((key, score))) => self.row(id, &key, score),
                (None, None) => self.read(value, depth - 1),
            }
        }
    }

    /// The score of a row, and under which key it stands.
    fn score(&self, row: &Map<String, Value>) -> Option<(String, f64)> {
        self.score_keys
            .iter()
            .find_map(|key| Some(((*key).to_owned(), number(row.get(*key)?)?)))
    }

    fn row(&mut self, id: &str, key: &str, score: f64) {
        if self.rows == MAX_ROWS {
            return;
        }
        self.rows += 1;
        let (Some(candidate), Some(tokens)) =
            (self.names.find(id), tokens(key, score, self.prompt_tokens))
        else {
            return;
        };
        let best = &mut self.best[candidate];
        *best = Some(best.map_or(tokens, |known| known.max(tokens)));
    }

    fn finish(
        self,
        candidates: &[LookupCandidate],
        was_empty: bool,
    ) -> Result<Vec<CacheHit>, LookupOutcome> {
        if was_empty {
            return Ok(Vec::new());
        }
        if self.best.iter().all(Option::is_none) {
            return Err(if self.rows == 0 {
                LookupOutcome::Garbage
            } else {
                LookupOutcome::Unknown
            });
        }
        let held = candidates
            .iter()
            .zip(self.best)
            .filter_map(|(candidate, tokens)| Some((candidate.endpoint, tokens?)));
        Ok(held
            .filter(|(_, tokens)| *tokens > 0)
            .map(|(endpoint, tokens)| CacheHit {
                endpoint,
                cached: CachedTokens::on_gpu(tokens),
                source: CacheSource::KvManager,
                at_least: false,
            })
            .collect())
    }
}

// === Steps ===

/// A number, or the text of one.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Tokens of a prompt of `prompt_tokens` that a score means, by the table above; never more than
/// the prompt has.
fn tokens(key: &str, score: f64, prompt_tokens: u32) -> Option<u32> {
    if !score.is_finite() || score < 0.0 {
        return None;
    }
    let all = f64::from(prompt_tokens);
    let says = |words: &[&str]| words.iter().any(|word| key.contains(word));
    let tokens = if says(&["matched", "token"]) {
        score
    } else if score <= 1.0 {
        score * all
    } else if !says(&["rate", "ratio", "percent"]) {
        score
    } else if score <= 100.0 {
        score / 100.0 * all
    } else {
        return None;
    };
    // At most `prompt_tokens`, so it fits.
    Some(tokens.min(all) as u32)
}

#[cfg(test)]
mod tests;
