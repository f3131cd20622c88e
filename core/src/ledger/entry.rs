//! An open request and its legs, and the sums over legs at one endpoint.

use std::time::Duration;

use serde::Serialize;
use smallvec::SmallVec;

use super::keys::{LegId, RequestId};
use crate::snapshot::EndpointId;

/// How far a leg is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LegPhase {
    /// Chosen; the proxy has not said that it sent it.
    Booked,
    /// Sent; nothing came back yet.
    Sent,
    /// Its first byte came: its prompt is no longer work to do.
    Answering,
}

/// One open leg of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OpenLeg {
    /// Where it was sent, or will be.
    pub endpoint: EndpointId,
    /// Uncached prompt tokens: what the endpoint has, or had, to prefill for it.
    pub tokens: u32,
    /// How far it is.
    pub phase: LegPhase,
    /// When it was booked, or sent if that was reported.
    pub since: Duration,
}

/// The legs of one request that were released together. Not empty, in no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    pub(super) legs: SmallVec<[(LegId, OpenLeg); 1]>,
}

/// A leg that a proxy lists as open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedLeg {
    /// Its request, of that proxy.
    pub request: RequestId,
    /// Which of the request's legs.
    pub leg: LegId,
    /// Where it was sent.
    pub endpoint: EndpointId,
    /// Uncached prompt tokens.
    pub tokens: u32,
    /// How far it is.
    pub phase: LegPhase,
}

/// What is open at one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InFlightTotals {
    /// Legs booked or sent, and not ended: requests in flight there.
    pub requests: u32,
    /// Uncached prompt tokens of those whose first byte has not come.
    pub tokens: u64,
    /// How many those are.
    pub unanswered: u32,
    /// How many of those have a prompt to compute: all but legs that take over what another
    /// endpoint computes, and prompts that are cached whole.
    pub prompts: u32,
}

// === OpenLeg ===

impl OpenLeg {
    /// Whether its first byte has not come.
    #[must_use]
    pub fn is_unanswered(&self) -> bool {
        self.phase != LegPhase::Answering
    }

    /// Tokens still to prefill.
    pub(super) fn pending(&self) -> u64 {
        match self.phase {
            LegPhase::Booked | LegPhase::Sent => self.tokens.into(),
            LegPhase::Answering => 0,
        }
    }
}

// === LedgerEntry ===

impl LedgerEntry {
    /// The released legs.
    pub fn legs(&self) -> impl Iterator<Item = (LegId, OpenLeg)> + '_ {
        self.legs.iter().copied()
    }

    /// The main leg, if it was open.
    #[must_use]
    pub fn main(&self) -> Option<OpenLeg> {
        self.leg(LegId::MAIN)
    }

    /// This leg, if it was open.
    #[must_use]
    pub fn leg(&self, leg: LegId) -> Option<OpenLeg> {
        let found = self.legs.iter().find(|(known, _)| *known == leg);
        found.map(|(_, open)| *open)
    }

    /// How many legs were released.
    #[must_use]
    pub fn count(&self) -> usize {
        self.legs.len()
    }
}

// === InFlightTotals ===

impl InFlightTotals {
    pub(super) fn add(&mut self, open: OpenLeg) {
        self.requests += 1;
        self.tokens += open.pending();
        self.unanswered += u32::from(open.is_unanswered());
        self.prompts += u32::from(open.pending() > 0);
    }

    pub(super) fn remove(&mut self, open: OpenLeg) {
        self.requests -= 1;
        self.tokens -= open.pending();
        self.unanswered -= u32::from(open.is_unanswered());
        self.prompts -= u32::from(open.pending() > 0);
    }
}
