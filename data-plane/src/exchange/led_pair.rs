//! The endpoints of a pair whose legs a leader sends: whose failure the leader's answer is.
//!
//! A leader answers an error when it cannot reach one of the two. One that is down, or accepts no
//! connection, has failed, and the leader has not; if both are gone, both have. Otherwise it is the
//! leader's own: nothing shows which of three endpoints is broken.

use std::sync::Arc;

use hermes_core::ejection::EndpointFailure;

use super::{
    admitted_endpoint::{AdmittedEndpoint, PendingLeg},
    attempt::{AttemptFacts, LegStage},
    guard::RequestGuard,
    leg::LegError,
    sent_leg::UpstreamResponse,
    transfer::{is_gone, may_be_of_another, unless_void},
};
use crate::{clock::uptime, telemetry::metrics::ConnectionMetrics};

/// Both legs, until their leader has answered. Dropped, they have no result.
pub(super) struct LedPair<'a> {
    prefill: LedLeg<'a>,
    decode: LedLeg<'a>,
}

struct LedLeg<'a> {
    pending: PendingLeg<'a>,
    facts: AttemptFacts,
}

impl<'a> LedPair<'a> {
    /// The leader was sent the request.
    pub(super) fn begin(
        [prefill, decode]: [AdmittedEndpoint<'a>; 2],
        leader: &AttemptFacts,
    ) -> Self {
        let leg = |stage, endpoint| LedLeg {
            pending: PendingLeg::of(endpoint),
            facts: leader.forwarded(stage, endpoint),
        };
        Self {
            prefill: leg(LegStage::Prefill, prefill),
            decode: leg(LegStage::Decode, decode),
        }
    }

    /// The leader's leg came to this. Counts what it says of both endpoints; what it says of the
    /// leader is counted as ever. Returns how the attempt ended.
    pub(super) async fn ended(
        self,
        answer: Result<UpstreamResponse, LegError>,
        guard: &mut RequestGuard,
        connections: &ConnectionMetrics,
    ) -> Result<UpstreamResponse, LegError> {
        let Self { prefill, decode } = self;
        if answer.as_ref().is_ok_and(UpstreamResponse::is_served) {
            prefill.served();
            decode.served();
            return answer;
        }
        if !may_be_of_another(&answer) {
            return answer;
        }
        let upstreams = [&prefill, &decode].map(|leg| Arc::clone(&leg.facts.upstream));
        let gone = tokio::join!(
            is_gone(&upstreams[0], connections),
            is_gone(&upstreams[1], connections),
        );
        let blamed = match gone {
            (false, false) => return answer,
            (true, false) => prefill,
            (false, true) => decode,
            (true, true) => {
                decode.pending.hand_over();
                guard.suspect(&decode.facts, EndpointFailure::Connect);
                prefill
            }
        };
        let upstream = Arc::clone(&blamed.facts.upstream);
        blamed.pending.hand_over();
        guard.blame(blamed.facts);
        answer.and_then(|answer| unless_void(answer, &upstream))
    }
}

impl LedLeg<'_> {
    fn served(self) {
        self.pending.hand_over().upstream().succeeded(uptime());
    }
}
