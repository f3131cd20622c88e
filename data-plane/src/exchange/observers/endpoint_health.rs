//! Releases the trial of an endpoint whose client disconnected before an answer.

use crate::exchange::summary::RequestSummary;

pub(super) fn observe(summary: &RequestSummary<'_>) {
    if let (true, Some(attempt)) = (summary.was_abandoned(), summary.attempt) {
        attempt.give_up();
    }
}
