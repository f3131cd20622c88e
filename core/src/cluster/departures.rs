//! What is known of endpoints that left, kept for a while in case they return.
//!
//! One failed readiness probe takes an endpoint out of a pool, and seconds later it is back under
//! the same id, with its cache and its speed as they were. Engines fail such probes under load:
//! when what is known of them is worth most.

use std::{collections::VecDeque, time::Duration};

use super::snapshot::EndpointId;

/// How long what is known of an endpoint is kept: some readiness probes.
pub const KEPT: Duration = Duration::from_secs(60);

/// Endpoints of one pool that are kept at most; then the first that left goes.
pub const MAX_DEPARTED: usize = 256;

/// See the module: `T` is what is known of one endpoint.
#[derive(Clone, Debug)]
pub struct Departures<T> {
    /// In the order in which they left; each endpoint once.
    left: VecDeque<Departure<T>>,
}

#[derive(Clone, Debug)]
struct Departure<T> {
    at: Duration,
    endpoint: EndpointId,
    known: T,
}

impl<T> Default for Departures<T> {
    fn default() -> Self {
        Self {
            left: VecDeque::new(),
        }
    }
}

impl<T> Departures<T> {
    /// The endpoint left now.
    pub fn leave(&mut self, endpoint: EndpointId, known: T, now: Duration) {
        self.take_back(endpoint);
        if self.left.len() == MAX_DEPARTED {
            self.left.pop_front();
        }
        let at = now;
        self.left.push_back(Departure {
            at,
            endpoint,
            known,
        });
    }

    /// The endpoint is back: what was known of it, unless that is too long ago.
    pub fn take_back(&mut self, endpoint: EndpointId) -> Option<T> {
        let at = self.position(endpoint)?;
        self.left.remove(at).map(|departure| departure.known)
    }

    /// Whether this endpoint left, and is kept.
    #[must_use]
    pub fn contains(&self, endpoint: EndpointId) -> bool {
        self.position(endpoint).is_some()
    }

    /// Drops those that left too long ago. Returns whether there were any.
    pub fn expire(&mut self, now: Duration) -> bool {
        let before = self.left.len();
        while let Some(first) = self.left.front()
            && now.saturating_sub(first.at) >= KEPT
        {
            self.left.pop_front();
        }
        self.left.len() < before
    }

    fn position(&self, endpoint: EndpointId) -> Option<usize> {
        let mut left = self.left.iter();
        left.position(|departure| departure.endpoint == endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_known_of_an_endpoint_returns_once_and_within_a_minute() {
        let mut departures = Departures::default();
        departures.leave(EndpointId(1), "one", at(0));
        departures.leave(EndpointId(2), "two", at(30));
        assert!(!departures.expire(at(59)));
        assert_eq!(departures.take_back(EndpointId(1)), Some("one"));
        assert_eq!(departures.take_back(EndpointId(1)), None);
        assert!(departures.contains(EndpointId(2)));
        assert!(departures.expire(at(90)));
        assert_eq!(departures.take_back(EndpointId(2)), None);
    }

    #[test]
    fn the_number_of_departed_endpoints_is_bounded() {
        let mut departures = Departures::default();
        for endpoint in 0..=MAX_DEPARTED as u64 {
            departures.leave(EndpointId(endpoint), endpoint, at(0));
            departures.leave(EndpointId(endpoint), endpoint, at(1));
        }
        assert!(!departures.contains(EndpointId(0)));
        assert!(departures.contains(EndpointId(1)));
    }
}
