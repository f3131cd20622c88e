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
//! A sidecar that sends the prefill leg itself answers 502 or 504 as well, for its own engine as for
//! the prefill endpoint. Its 503, and its silence, are looked into only for an endpoint that is
//! gone.
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
    /// The decode endpoint sends the prefill leg itself.
    is_unseen: bool,
}

/// Whether a decode leg may have ended so because of its prefill endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Suspicion {
    No,
    /// If that one is gone.
    IfGone,
    Yes,
}

impl<'a> Transfer<'a> {
    /// The prefill leg was sent.
    pub(super) const fn begin(prefill: AdmittedEndpoint<'a>, facts: AttemptFacts) -> Self {
        Self {
            prefill: PendingLeg::of(prefill),
            facts,
            is_answered: false,
            is_unseen: false,
        }
    }

    /// The decode endpoint was sent the request, and sends the prefill leg.
    pub(super) fn begin_unseen(prefill: AdmittedEndpoint<'a>, facts: AttemptFacts) -> Self {
        Self {
            is_unseen: true,
            ..Self::begin(prefill, facts)
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
        let suspicion = self.suspicion(&decode);
        if suspicion == Suspicion::No {
            let is_served = decode.as_ref().is_ok_and(UpstreamResponse::is_served);
            if self.is_answered || (self.is_unseen && is_served) {
                self.served();
            }
            return decode;
        }
        let prefill = Arc::clone(&self.facts.upstream);
        let failed = decode.as_ref().ok().map(|answer| answer.attempt.upstream());
        let failed = failed.filter(|_| suspicion == Suspicion::Yes);
        let says_new =
            failed.map(|of| of.transfers.failed(prefill.endpoint.id, &prefill.transfers));
        if is_gone(&prefill, connections).await {
            self.failed(guard);
            return decode.and_then(|answer| unless_void(answer, &prefill));
        }
        match says_new {
            None => {}
            Some(true) => {
                self.prefill.hand_over();
                guard.suspect(&self.facts, EndpointFailure::Status(500));
            }
            Some(false) => {
                self.prefill.hand_over();
                guard.blame_prefill(self.facts);
            }
        }
        decode
    }

    fn suspicion(&self, decode: &Result<UpstreamResponse, LegError>) -> Suspicion {
        if self.is_unseen {
            return match decode {
                Ok(answer) if answer.class.known() == Some(AnswerClass::Overloaded) => {
                    Suspicion::IfGone
                }
                Ok(_) if may_be_of_another(decode) => Suspicion::Yes,
                Err(_) if may_be_of_another(decode) => Suspicion::IfGone,
                _ => Suspicion::No,
            };
        }
        let Ok(answer) = decode else {
            return Suspicion::No;
        };
        match answer.class.known() {
            Some(AnswerClass::ErrorEvent) => Suspicion::Yes,
            Some(AnswerClass::EngineError)
                if answer.head.status == StatusCode::INTERNAL_SERVER_ERROR =>
            {
                Suspicion::Yes
            }
            _ => Suspicion::No,
        }
    }
}

/// Whether the end of a leg may be due to an endpoint that the one it was sent to asked itself.
pub(super) fn may_be_of_another(end: &Result<UpstreamResponse, LegError>) -> bool {
    match end {
        Ok(answer) => match answer.class.known() {
            Some(AnswerClass::ErrorEvent) => true,
            Some(AnswerClass::EngineError | AnswerClass::Overloaded) => {
                matches!(answer.head.status.as_u16(), 500 | 502 | 503 | 504)
            }
            _ => false,
        },
        Err(LegError::TimedOut(deadline)) => deadline.is_full,
        Err(_) => false,
    }
}

/// The answer of an endpoint that could not reach this one, which is gone. There is none, if this
/// one has left the pool, or if the answer states that something is busy: nothing is.
pub(super) fn unless_void(
    answer: UpstreamResponse,
    gone: &Upstream,
) -> Result<UpstreamResponse, LegError> {
    if gone.is_removed() || answer.class.known() == Some(AnswerClass::Overloaded) {
        answer.recycle();
        return Err(LegError::PartnerGone);
    }
    Ok(answer)
}

/// Whether no request can be sent to an endpoint.
pub(super) async fn is_gone(upstream: &Upstream, connections: &ConnectionMetrics) -> bool {
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
