//! What becomes of a score request.

use std::time::Duration;

use hermes_core::{pick::NoEndpoint, scheduler::Assignment};
use tokio::sync::oneshot;

use crate::metrics::Outcome;

/// What becomes of it at once.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is booked.
    Bound(Assignment),
    /// It waits.
    Waits(Wait),
    /// It is refused.
    Refused(Refusal),
}

/// A place among those who wait.
#[derive(Debug)]
pub(crate) struct Wait {
    /// When it may be bound, as things stand.
    pub(crate) expected: Duration,
    /// When it gives up.
    pub(crate) limit: Duration,
    /// How many waited before it came.
    pub(crate) position: usize,
    /// How it ends. Nothing comes when the pool is gone, or the request was cancelled.
    pub(crate) end: oneshot::Receiver<Result<Assignment, Refusal>>,
}

/// Why a request gets no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is nobody to choose from.
    NoEndpoint(NoEndpoint),
    /// Too much waits already.
    Full {
        /// When there may be room.
        retry_after: Duration,
    },
    /// It waited as long as it may.
    TimedOut {
        /// When there may be room.
        retry_after: Duration,
    },
}

impl From<&Refusal> for Outcome {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::NoEndpoint(NoEndpoint::Empty | NoEndpoint::OnlyDisaggregated) => Self::Empty,
            Refusal::NoEndpoint(NoEndpoint::AllTried) => Self::AllTried,
            Refusal::NoEndpoint(NoEndpoint::ModelNotLoaded) => Self::ModelNotLoaded,
            Refusal::Full { .. } => Self::QueueFull,
            Refusal::TimedOut { .. } => Self::QueueTimeout,
        }
    }
}
