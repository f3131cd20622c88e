//! A leg of a request at one endpoint.

use std::{sync::Arc, time::Duration};

use hermes_core::{ledger::LegId, query::CacheSource};
use tokio::time::Instant;
use tracing::Span;

use super::admitted_endpoint::AdmittedEndpoint;
use crate::{
    choose::SelectedEndpoint,
    clock::uptime,
    endpoint::{EndpointAdmission, InFlightGuard, Upstream},
};

/// A leg that was sent to one endpoint, or is about to be. It is in flight there until this is
/// dropped, and travels with the endpoint's answer.
pub(crate) struct Attempt {
    facts: AttemptFacts,
    in_flight: InFlightGuard,
}

/// What a leg is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LegStage {
    /// The whole request.
    Both,
    /// Computing the prompt.
    Prefill,
    /// Generating the answer from a KV cache that a prefill leg computed.
    Decode,
}

/// What observers need to know of an attempt, which may have ended.
#[derive(Clone)]
pub(super) struct AttemptFacts {
    /// The leg of the request that it serves, and what for.
    pub(super) leg: LegId,
    pub(super) stage: LegStage,
    pub(super) upstream: Arc<Upstream>,
    /// What it is sent there as.
    pub(super) admission: EndpointAdmission,
    sent: Instant,
    /// Prompt tokens that the endpoint's cache was expected to hold, and the source of that
    /// expectation.
    pub(super) cached_tokens: u32,
    pub(super) source: Option<CacheSource>,
    pub(super) span: Span,
}

impl Attempt {
    pub(super) fn begin(
        stage: LegStage,
        AdmittedEndpoint {
            endpoint,
            admission,
        }: AdmittedEndpoint<'_>,
        uncached_tokens: u64,
        span: Span,
        sent: Instant,
    ) -> Self {
        let SelectedEndpoint {
            upstream,
            cached_tokens,
            source,
        } = endpoint;
        Self {
            in_flight: upstream.enter(uncached_tokens),
            facts: AttemptFacts {
                leg: stage.leg(),
                stage,
                upstream: Arc::clone(upstream),
                admission,
                sent,
                cached_tokens: *cached_tokens,
                source: *source,
                span,
            },
        }
    }

    pub(super) const fn facts(&self) -> &AttemptFacts {
        &self.facts
    }

    pub(crate) const fn upstream(&self) -> &Arc<Upstream> {
        &self.facts.upstream
    }

    /// Ends what this attempt measures while its answer is held back for want of a better one.
    pub(super) fn hold(&mut self) {
        self.prefill_done();
        self.facts.span = Span::none();
    }

    /// Its answer is the client's: it is the leg that lasts until the end of the request.
    pub(super) fn into_main(mut self) -> Self {
        self.facts.leg = LegId::MAIN;
        self
    }

    /// It was sent at that time.
    pub(super) fn sent_at(mut self, sent: Instant) -> Self {
        self.facts.sent = sent;
        self
    }

    /// The endpoint has begun its answer: its prefill is done.
    pub(super) fn prefill_done(&mut self) {
        self.in_flight.answered();
    }
}

impl LegStage {
    /// The number of the leg.
    pub(super) const fn leg(self) -> LegId {
        match self {
            Self::Both | Self::Decode => LegId::MAIN,
            Self::Prefill => LegId::PREFILL,
        }
    }

    /// `hermes.stage` in spans.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

impl AttemptFacts {
    /// A leg that the endpoint of this attempt sends to another one itself.
    pub(super) fn forwarded(&self, stage: LegStage, to: AdmittedEndpoint<'_>) -> Self {
        Self {
            leg: stage.leg(),
            stage,
            upstream: Arc::clone(to.upstream()),
            admission: to.admission,
            cached_tokens: to.endpoint.cached_tokens,
            source: to.endpoint.source,
            ..self.clone()
        }
    }

    /// When it was sent.
    pub(super) const fn sent(&self) -> Instant {
        self.sent
    }

    /// It has no result: if it is the endpoint's trial, the next request may be.
    pub(super) fn give_up(&self) {
        self.upstream.abandoned(uptime(), self.admission);
    }

    pub(super) fn since_sent(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.sent)
    }
}
