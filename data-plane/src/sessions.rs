//! Which endpoint holds a stored response: requests that refer to one must go where it was made.
//!
//! Bounded: two generations of at most [`GENERATION`] entries, the older of which is dropped when the newer is full.

use std::collections::HashMap;

use hermes_core::snapshot::EndpointId;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

/// Entries of one generation; 16 bytes each, and what the map adds.
const GENERATION: usize = 100_000;

/// Learned from answers of `/v1/responses` that went by.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    newer: HashMap<u64, EndpointId>,
    older: HashMap<u64, EndpointId>,
}

impl Sessions {
    /// The response of this id lives there.
    pub(crate) fn remember(&self, response_id: &str, endpoint: EndpointId) {
        let mut generations = self.0.lock();
        if generations.newer.len() >= GENERATION {
            generations.older = std::mem::take(&mut generations.newer);
        }
        generations.newer.insert(xxh3_64(response_id.as_bytes()), endpoint);
    }

    /// Where the response of this id lives, as far as this proxy saw it made.
    pub(crate) fn endpoint(&self, response_id: &str) -> Option<EndpointId> {
        let generations = self.0.lock();
        let key = xxh3_64(response_id.as_bytes());
        generations.newer.get(&key).or_else(|| generations.older.get(&key)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_responses_are_found_and_memory_is_bounded() {
        let sessions = Sessions::default();
        for index in 0..=2 * GENERATION {
            sessions.remember(&format!("resp_{index}"), EndpointId(index as u64));
        }
        let newest = 2 * GENERATION;
        assert_eq!(sessions.endpoint(&format!("resp_{newest}")), Some(EndpointId(newest as u64)));
        assert_eq!(sessions.endpoint(&format!("resp_{}", newest - GENERATION)), Some(EndpointId(GENERATION as u64)));
        assert_eq!(sessions.endpoint("resp_0"), None);
        let generations = sessions.0.lock();
        assert!(generations.newer.len() + generations.older.len() <= 2 * GENERATION);
    }
}
