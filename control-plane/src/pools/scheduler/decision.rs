//! The outcome of a Score request.

use std::time::Duration;

use hermes_core::{pick::NoEndpoint, scheduler::Assignment};
use tokio::sync::oneshot;

use crate::metrics::ScoreOutcome;

/// The immediate outcome.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most are the large one, and a box would cost an allocation for each"
)]
pub(crate) enum ScoreDecision {
    /// It is booked.
    Bound(Assignment),
    /// It is queued.
    Waits(QueueTicket),
    /// It is rejected.
    Refused(ScoreRejection),
}

/// A place in the queue.
#[derive(Debug)]
pub(crate) struct QueueTicket {
    /// Expected time until it is bound.
    pub(crate) expected: Duration,
    /// When it times out.
    pub(crate) limit: Duration,
    /// Requests that were queued before it.
    pub(crate) position: usize,
    /// Its end. Closed without a value when the pool was removed, or the request was cancelled.
    pub(crate) end: oneshot::Receiver<Result<Assignment, ScoreRejection>>,
}

/// Why a request gets no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScoreRejection {
    /// No endpoint can be chosen.
    NoEndpoint(NoEndpoint),
    /// It was sent already: the question is late.
    AlreadySent,
    /// The queue is full.
    Full {
        /// When there may be room.
        retry_after: Duration,
    },
    /// It was queued for the longest time allowed.
    TimedOut {
        /// When there may be room.
        retry_after: Duration,
    },
}

impl From<&ScoreRejection> for ScoreOutcome {
    fn from(refusal: &ScoreRejection) -> Self {
        match refusal {
            ScoreRejection::NoEndpoint(NoEndpoint::Empty | NoEndpoint::OnlyDisaggregated) => {
                Self::Empty
            }
            ScoreRejection::NoEndpoint(NoEndpoint::AllTried) => Self::AllTried,
            ScoreRejection::NoEndpoint(NoEndpoint::NotCached) => Self::NotCached,
            ScoreRejection::NoEndpoint(NoEndpoint::ModelNotLoaded) => Self::ModelNotLoaded,
            ScoreRejection::AlreadySent => Self::AlreadySent,
            ScoreRejection::Full { .. } => Self::QueueFull,
            ScoreRejection::TimedOut { .. } => Self::QueueTimeout,
        }
    }
}
