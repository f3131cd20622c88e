//! The transfer of a KV cache between the endpoints of a pair: whose failure it is.
//!
//! A decode engine that cannot read what its prefill engine keeps answers 500, or an error as the
//! first event: the same as when it is broken itself.
//!
//! | the prefill endpoint | what a 500 of the decode leg counts as |
//! |---|---|
//! | has left the pool, and accepts no connection | nothing: as if it had not been reached at first |
//! | is down, or accepts no connection | its own failure; the decode leg has no result |
//! | accepts connections | its failure; also one of the decode endpoint, if that says anything new of it |
//!
//! A prefill endpoint has served when a decode leg has used what it keeps, and not before: one of
//! which no cache can be read fails several times in a row, and is ejected. A decode endpoint fails
//! once with each such partner. One that is broken itself fails with partners that serve others.

use std::{sync::Arc, time::Duration};

use hermes_core::{ejection::EndpointFailure, load::Health};
use http::StatusCode;
use tokio::time::Instant;

use super::{
    admitted_endpoint::{AdmittedEndpoint, PendingLeg},
    attempt::AttemptFacts,
    guard::RequestGuard,
    leg::LegError,
    sent_leg::UpstreamResponse,
};
use crate::{
    clock::uptime,
    endpoint::Upstream,
    telemetry::metrics::{AnswerClass, ConnectionMetrics},
};

/// How long an endpoint that is up may take to accept a connection. One whose host is gone accepts
/// none, and is not waited for any longer.
const ACCEPT_PATIENCE: Duration = Duration::from_millis(250);

/// A prefill leg that was sent, until it is known whether its decode leg could use it. Dropped,
/// as it is when the client disconnects, it has no result.
pub(super) struct Transfer<'a> {
    prefill: PendingLeg<'a>,
    facts: AttemptFacts,
    is_answered: bool,
}

impl<'a> Transfer<'a> {
    /// The prefill leg was sent.
    pub(super) const fn begin(prefill: AdmittedEndpoint<'a>, facts: AttemptFacts) -> Self {
        Self {
            prefill: PendingLeg::of(prefill),
            facts,
            is_answered: false,
        }
    }

    /// The prefill leg was answered at that time.
    pub(super) fn answered(&mut self, at: Instant, guard: &mut RequestGuard) {
        guard.prefill_answered(&self.facts, at);
        self.is_answered = true;
    }

    /// The decode leg does not depend on the prefill endpoint any more, or never did.
    pub(super) fn served(self) {
        let prefill = self.prefill.hand_over();
        prefill.upstream().transfers.used();
        prefill.upstream().succeeded(uptime());
    }

    /// The prefill leg failed, and with it the attempt.
    pub(super) fn failed(self, guard: &mut RequestGuard) {
        self.prefill.hand_over();
        guard.blame(self.facts);
    }

    /// The decode leg, which reads from the prefill endpoint, came to this. Counts what it says of
    /// that endpoint; what it says of the decode endpoint is counted as ever. Returns how the
    /// attempt ended.
    pub(super) async fn ended(
        self,
        decode: Result<UpstreamResponse, LegError>,
        guard: &mut RequestGuard,
        connections: &ConnectionMetrics,
    ) -> Result<UpstreamResponse, LegError> {
        let Some(upstream) = failed_by_transfer(&decode) else {
            if self.is_answered {
                self.served();
            }
            return decode;
        };
        let prefill = Arc::clone(&self.facts.upstream);
        let record = &prefill.transfers;
        let says_new = upstream.transfers.failed(prefill.endpoint.id, record);
        if is_gone(&prefill, connections).await {
            self.failed(guard);
            if prefill.is_removed() {
                decode.into_iter().for_each(UpstreamResponse::recycle);
                return Err(LegError::PartnerLeft);
            }
        } else if says_new {
            self.prefill.hand_over();
            guard.suspect(&self.facts, EndpointFailure::Status(500));
        } else {
            self.prefill.hand_over();
            guard.blame_prefill(self.facts);
        }
        decode
    }
}

/// The decode endpoint, if its leg may have ended so because it could not read the KV cache.
fn failed_by_transfer(decode: &Result<UpstreamResponse, LegError>) -> Option<&Upstream> {
    let answer = decode.as_ref().ok()?;
    let is_failure = match answer.class.known()? {
        AnswerClass::ErrorEvent => true,
        AnswerClass::EngineError => answer.head.status == StatusCode::INTERNAL_SERVER_ERROR,
        _ => false,
    };
    is_failure.then(|| &**answer.attempt.upstream())
}

/// Whether no request can be sent to an endpoint.
async fn is_gone(upstream: &Upstream, connections: &ConnectionMetrics) -> bool {
    if upstream.load(uptime()).health == Health::Down {
        return true;
    }
    let Ok(connection) = upstream.connect(ACCEPT_PATIENCE).await else {
        return true;
    };
    connections.opened.inc();
    upstream.checkin(connection);
    false
}
