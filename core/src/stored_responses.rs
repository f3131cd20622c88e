//! Where stored responses live: a request that refers to one must go to the endpoint that made it.
//!
//! Both planes keep one: a proxy learns from the answers that it passes on, a control plane from
//! the reports of all proxies. Bounded: two generations of at most [`GENERATION`] entries, the
//! older of which is dropped when the newer is full.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::snapshot::EndpointId;

/// Entries of one generation; 16 bytes each, and what the map adds.
pub const GENERATION: usize = 100_000;

/// Names a stored response (`resp_…`) without disclosing its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResponseKey(pub u64);

/// See the module.
#[derive(Debug, Default)]
pub struct ResponseLocations {
    newer: HashMap<ResponseKey, EndpointId>,
    older: HashMap<ResponseKey, EndpointId>,
}

impl ResponseKey {
    /// The key of the response with this id.
    #[must_use]
    pub fn of(response_id: &str) -> Self {
        Self(xxh3_64(response_id.as_bytes()))
    }
}

impl ResponseLocations {
    /// The response lives there.
    pub fn insert(&mut self, response: ResponseKey, endpoint: EndpointId) {
        if self.newer.len() >= GENERATION {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(response, endpoint);
    }

    /// Where the response lives, if it was seen made.
    #[must_use]
    pub fn endpoint(&self, response: ResponseKey) -> Option<EndpointId> {
        self.newer
            .get(&response)
            .or_else(|| self.older.get(&response))
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_responses_are_found_and_memory_is_bounded() {
        let mut responses = ResponseLocations::default();
        for index in 0..=2 * GENERATION as u64 {
            responses.insert(ResponseKey(index), EndpointId(index));
        }
        let newest = 2 * GENERATION as u64;
        assert_eq!(
            responses.endpoint(ResponseKey(newest)),
            Some(EndpointId(newest))
        );
        assert_eq!(
            responses.endpoint(ResponseKey(newest - GENERATION as u64)),
            Some(EndpointId(GENERATION as u64))
        );
        assert_eq!(responses.endpoint(ResponseKey(0)), None);
        assert!(responses.newer.len() + responses.older.len() <= 2 * GENERATION);
    }
}
