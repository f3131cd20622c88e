//! Releases the probe of an endpoint whose client disconnected before an answer.

use crate::{clock::uptime, exchange::summary::RequestSummary};

pub(super) fn observe(summary: &RequestSummary<'_>) {
    if let (true, Some(attempt)) = (summary.was_abandoned(), summary.attempt) {
        attempt.upstream.abandoned(uptime());
    }
}
