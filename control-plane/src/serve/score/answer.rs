//! Score responses on the wire.

use std::time::Duration;

use hermes_core::{
    explanation::ExpectedCosts,
    pick::NoEndpoint,
    query::{CacheSource, RankedEndpoint},
    scheduler::Assignment,
};
use hermes_proto::v1::{
    self, Candidate, Queued, Rejected, ScoreResponse, Selected, rejected::Reason,
    score_response::Answer,
};

use crate::pools::{QueueTicket, ScoreRejection};

/// Where request `id` goes.
pub(super) fn chosen(id: u64, binding: &Assignment) -> ScoreResponse {
    let Assignment {
        choice,
        prompt_tokens,
        source,
        waited,
        costs,
    } = binding;
    let ttft = costs.map(|ExpectedCosts { ttft, .. }| millis(ttft));
    let candidate = |(rank, ranked): (usize, &RankedEndpoint)| Candidate {
        endpoint: ranked.placement().decode().0,
        prefill: ranked.decode.map(|_| ranked.endpoint.0),
        cached_tokens: ranked.cached_tokens,
        expected_ttft_ms: ttft.filter(|_| rank == 0),
    };
    let chosen = Selected {
        ranked: choice.ranked.iter().enumerate().map(candidate).collect(),
        waited_ms: millis(*waited),
        expected_wait_ms: costs.map(
            |ExpectedCosts {
                 queue_delay: ahead, ..
             }| millis(ahead),
        ),
        gamma: costs.map(|ExpectedCosts { gamma, .. }| gamma),
        runner_up: costs
            .and_then(|ExpectedCosts { runner_up, .. }| runner_up)
            .map(|endpoint| endpoint.0),
        source: wire(*source).into(),
        prompt_tokens: *prompt_tokens,
    };
    ScoreResponse {
        id,
        answer: Some(Answer::Selected(chosen)),
    }
}

/// Request `id` waits.
pub(super) fn queued(id: u64, wait: &QueueTicket) -> ScoreResponse {
    let queued = Queued {
        expected_ms: Some(millis(wait.expected)),
        limit_ms: millis(wait.limit),
        position: u32::try_from(wait.position).unwrap_or(u32::MAX),
    };
    ScoreResponse {
        id,
        answer: Some(Answer::Queued(queued)),
    }
}

/// A refusal of request `id` by the scheduler.
pub(super) fn refusal(id: u64, refusal: ScoreRejection) -> ScoreResponse {
    let (reason, retry_after) = match refusal {
        ScoreRejection::NoEndpoint(NoEndpoint::Empty | NoEndpoint::OnlyDisaggregated) => {
            (Reason::Empty, Duration::ZERO)
        }
        ScoreRejection::NoEndpoint(NoEndpoint::AllTried) => (Reason::AllTried, Duration::ZERO),
        ScoreRejection::NoEndpoint(NoEndpoint::NotCached) => (Reason::NotCached, Duration::ZERO),
        ScoreRejection::NoEndpoint(NoEndpoint::ModelNotLoaded) => {
            (Reason::ModelNotLoaded, Duration::ZERO)
        }
        ScoreRejection::AlreadySent => (Reason::AlreadySent, Duration::ZERO),
        ScoreRejection::Full { retry_after } => (Reason::QueueFull, retry_after),
        ScoreRejection::TimedOut { retry_after } => (Reason::QueueTimeout, retry_after),
    };
    let refused = Rejected {
        reason: reason.into(),
        retry_after_ms: millis(retry_after),
    };
    ScoreResponse {
        id,
        answer: Some(Answer::Rejected(refused)),
    }
}

/// A refusal of request `id` before it came to a scheduler.
pub(super) fn refused(id: u64, reason: Reason) -> ScoreResponse {
    let refused = Rejected {
        reason: reason.into(),
        retry_after_ms: 0,
    };
    ScoreResponse {
        id,
        answer: Some(Answer::Rejected(refused)),
    }
}

const fn wire(source: Option<CacheSource>) -> v1::CacheSource {
    match source {
        None => v1::CacheSource::None,
        Some(CacheSource::Learned) => v1::CacheSource::Learned,
        Some(CacheSource::KvManager) => v1::CacheSource::KvManager,
        Some(CacheSource::KvEvents) => v1::CacheSource::KvEvents,
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
