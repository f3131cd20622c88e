//! Reports the end of a request to the control plane.

use std::time::Duration;

use hermes_core::ledger::LegId;
use hermes_proto::v1;

use crate::{
    exchange::summary::RequestSummary,
    link::report::{LegEnd, ReportedLeg, ReportedOutcome, Reporter},
    telemetry::metrics::RequestOutcome,
};

pub(super) fn observe(summary: &RequestSummary<'_>, reporter: &Reporter) {
    let usage = summary.usage.map(|usage| v1::Usage {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        cached_tokens: summary.cached_tokens,
    });
    let non_streaming = summary.query.non_streaming;
    let end = LegEnd {
        endpoint: summary.attempt.map(|attempt| attempt.upstream.endpoint.id),
        outcome: outcome(summary.outcome),
        answer: summary.answer.map(Into::into),
        usage,
        duration: summary.attempt.map_or(Duration::ZERO, |attempt| {
            attempt.since_sent(summary.ended_at)
        }),
        decoding: summary.timeline.decoding().filter(|_| !non_streaming),
        stored_response: summary.stored_response,
    };
    let main = ReportedLeg {
        request: summary.id,
        leg: LegId::MAIN,
    };
    reporter.finished(main, end);
}

/// The contract's outcome.
const fn outcome(ended: RequestOutcome) -> ReportedOutcome {
    match ended {
        RequestOutcome::Ok | RequestOutcome::ClientError => ReportedOutcome::Ok,
        RequestOutcome::Overloaded => ReportedOutcome::Overloaded,
        RequestOutcome::Cancelled => ReportedOutcome::Cancelled,
        RequestOutcome::TimedOut => ReportedOutcome::TimedOut,
        RequestOutcome::Failed | RequestOutcome::Truncated => ReportedOutcome::Failed,
    }
}
