//! What is known of a request when it ends.

use std::time::Duration;

use hermes_core::{query::Query, stored_responses::ResponseKey};
use tokio::time::Instant;

use super::{
    attempt::AttemptFacts,
    pair_times::{PairTimes, TtftParts},
    timeline::Timeline,
    trace::RequestTrace,
};
use crate::{
    telemetry::{
        metrics::{AnswerClass, FallbackLevel, RequestOutcome},
        usage::TokenUsage,
    },
    view::RoutingPool,
};

/// A finished request: the input of every observer.
pub(super) struct RequestSummary<'a> {
    pub(super) id: u64,
    pub(super) pool: &'a RoutingPool,
    pub(super) query: &'a Query,
    /// The model's name, if it is to be recorded.
    pub(super) recorded_model: Option<&'a str>,
    pub(super) level: FallbackLevel,
    /// Time in the control plane's queue.
    pub(super) queued: Duration,
    pub(super) timeline: Timeline,
    /// Of the last attempt, if that was one at a pair.
    pub(super) pair: Option<&'a PairTimes>,
    pub(super) ended_at: Instant,
    pub(super) outcome: RequestOutcome,
    /// The last attempt, or the one whose answer was relayed.
    pub(super) attempt: Option<&'a AttemptFacts>,
    /// Attempts after the first.
    pub(super) retries: u32,
    /// What the answer is, if one came.
    pub(super) answer: Option<AnswerClass>,
    pub(super) usage: Option<TokenUsage>,
    /// Cached tokens, if they are known: see [`crate::endpoint::Upstream::cached_tokens`].
    pub(super) cached_tokens: Option<u32>,
    pub(super) stored_response: Option<ResponseKey>,
    pub(super) trace: &'a RequestTrace,
}

impl RequestSummary<'_> {
    /// From the arrival to the end.
    pub(super) fn duration(&self) -> Duration {
        self.ended_at - self.timeline.arrived()
    }

    /// Output tokens as the engine reports them, else the number of pieces.
    pub(super) fn output_tokens(&self) -> u64 {
        self.usage.map_or(self.timeline.pieces(), |usage| {
            u64::from(usage.completion_tokens)
        })
    }

    /// Where the time to first token of a pair went; `None` without a pair or a token.
    pub(super) fn ttft_parts(&self) -> Option<TtftParts> {
        let step = self.timeline.time_per_output_token(self.output_tokens());
        let step = step.map(Duration::from_secs_f64);
        Some(self.pair?.parts(self.timeline.first_token()?, step))
    }

    /// Whether the client disconnected before anything of the answer was relayed.
    pub(super) fn was_abandoned(&self) -> bool {
        self.outcome == RequestOutcome::Cancelled && self.timeline.time_to_first_token().is_none()
    }
}
