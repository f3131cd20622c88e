//! Retry decisions: pure functions of what attempts came to.
//!
//! | what happened | what follows |
//! |---|---|
//! | cannot connect, or nothing was written | next endpoint |
//! | a reused connection broke after the request was written | once more on a new connection; counts as suspicious |
//! | a new connection broke after the request was written, or 500 | next endpoint; suspicious |
//! | two suspicious failures | the end: the request may be the cause |
//! | 502, 504 | next endpoint |
//! | 429, 503 | next endpoint; if every endpoint is overloaded, the last such answer is passed on |
//! | any other status | passed on |
//! | a deadline passed | 504: the time is used up |

use hermes_core::ejection::EndpointFailure;
use http::StatusCode;

use crate::{
    link::report::ReportedOutcome,
    telemetry::metrics::{AttemptOutcome, RequestOutcome},
};

/// Attempts that may fail suspiciously: the request itself may be the cause of such a failure.
const MAX_SUSPICIOUS_FAILURES: u32 = 2;

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum AttemptEnd {
    /// A head came.
    Answered(StatusCode),
    /// The request was not written.
    Unreachable,
    /// The endpoint may have seen the request, and did not answer.
    Broken,
    /// A deadline passed.
    TimedOut,
}

/// What follows from the end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryVerdict {
    /// The answer is relayed, or no time is left for another attempt.
    Final,
    /// Another endpoint may succeed; if none does, the last answer is relayed. The request may be
    /// the cause of a suspicious failure.
    TryElsewhere { suspicious: bool },
}

/// A failed attempt, as each sink names it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct AttemptFailure {
    pub(super) metric: AttemptOutcome,
    pub(super) health: EndpointFailure,
    pub(super) report: ReportedOutcome,
}

/// Attempts of one request so far.
#[derive(Debug)]
pub(super) struct Attempts {
    max: u32,
    tried: u32,
    suspicious: u32,
}

// === AttemptEnd ===

impl AttemptEnd {
    pub(super) fn verdict(self) -> RetryVerdict {
        let suspicious = match self {
            Self::TimedOut => return RetryVerdict::Final,
            Self::Unreachable => false,
            Self::Broken => true,
            Self::Answered(status) => match status.as_u16() {
                500 => true,
                429 | 502 | 503 | 504 => false,
                _ => return RetryVerdict::Final,
            },
        };
        RetryVerdict::TryElsewhere { suspicious }
    }

    /// The failure of the endpoint, if this is one.
    pub(super) fn failure(self) -> Option<AttemptFailure> {
        let (metric, health, report) = match self {
            Self::Unreachable => (
                AttemptOutcome::Unreachable,
                EndpointFailure::Connect,
                ReportedOutcome::Unreachable,
            ),
            Self::Broken => (
                AttemptOutcome::Failed,
                EndpointFailure::Reset,
                ReportedOutcome::Failed,
            ),
            Self::TimedOut => (
                AttemptOutcome::TimedOut,
                EndpointFailure::Timeout,
                ReportedOutcome::TimedOut,
            ),
            Self::Answered(status) => {
                let health = EndpointFailure::Status(status.as_u16());
                match status.as_u16() {
                    429 | 503 => (
                        AttemptOutcome::Overloaded,
                        health,
                        ReportedOutcome::Overloaded,
                    ),
                    500 | 502 | 504 => (AttemptOutcome::Failed, health, ReportedOutcome::Failed),
                    _ => return None,
                }
            }
        };
        Some(AttemptFailure {
            metric,
            health,
            report,
        })
    }
}

/// The outcome of a request whose answer with this status is relayed to its end.
pub(super) fn outcome_of(status: StatusCode) -> RequestOutcome {
    match status.as_u16() {
        429 | 503 => RequestOutcome::Overloaded,
        400..500 => RequestOutcome::ClientError,
        500..600 => RequestOutcome::Failed,
        _ => RequestOutcome::Ok,
    }
}

// === Attempts ===

impl Attempts {
    /// None yet; at most `max`.
    pub(super) const fn up_to(max: u32) -> Self {
        Self {
            max,
            tried: 0,
            suspicious: 0,
        }
    }

    /// Whether another attempt may be made. Every attempt after the first is paid from the retry
    /// budget.
    pub(super) fn may_continue(&self, withdraw: impl FnOnce() -> bool) -> bool {
        self.suspicious < MAX_SUSPICIOUS_FAILURES
            && self.tried < self.max
            && (self.tried == 0 || withdraw())
    }

    /// An attempt is made.
    pub(super) const fn begin(&mut self) {
        self.tried += 1;
    }

    /// An attempt failed.
    pub(super) fn failed(&mut self, suspicious: bool) {
        self.suspicious += u32::from(suspicious);
    }

    pub(super) const fn tried(&self) -> u32 {
        self.tried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(status: u16) -> RetryVerdict {
        AttemptEnd::Answered(StatusCode::from_u16(status).expect("valid")).verdict()
    }

    #[test]
    fn overload_and_gateway_errors_are_tried_elsewhere_and_other_statuses_passed_on() {
        for status in [429, 502, 503, 504] {
            let expected = RetryVerdict::TryElsewhere { suspicious: false };
            assert_eq!(verdict(status), expected, "{status}");
        }
        for status in [200, 302, 400, 404, 422, 501, 505] {
            assert_eq!(verdict(status), RetryVerdict::Final, "{status}");
        }
    }

    #[test]
    fn a_request_that_may_be_the_cause_is_tried_twice() {
        let mut attempts = Attempts::up_to(4);
        for end in [
            AttemptEnd::Broken,
            AttemptEnd::Answered(StatusCode::INTERNAL_SERVER_ERROR),
        ] {
            assert!(attempts.may_continue(|| true));
            attempts.begin();
            let RetryVerdict::TryElsewhere { suspicious } = end.verdict() else {
                panic!("{end:?} is tried elsewhere");
            };
            attempts.failed(suspicious);
        }
        assert!(!attempts.may_continue(|| true));
        assert_eq!(attempts.tried(), 2);
    }

    #[test]
    fn attempts_after_the_first_are_limited_and_paid() {
        let mut attempts = Attempts::up_to(2);
        assert!(attempts.may_continue(|| panic!("the first is free")));
        attempts.begin();
        attempts.failed(false);
        assert!(!attempts.may_continue(|| false) && attempts.may_continue(|| true));
        attempts.begin();
        attempts.failed(false);
        assert!(!attempts.may_continue(|| panic!("the limit comes first")));
    }

    #[test]
    fn only_failures_of_the_endpoint_are_failures() {
        let failure = |status| AttemptEnd::Answered(status).failure();
        assert_eq!(failure(StatusCode::OK), None);
        assert_eq!(failure(StatusCode::BAD_REQUEST), None);
        let busy = failure(StatusCode::TOO_MANY_REQUESTS).expect("overload");
        assert_eq!(busy.report, ReportedOutcome::Overloaded);
        assert_eq!(
            outcome_of(StatusCode::NOT_IMPLEMENTED),
            RequestOutcome::Failed
        );
    }
}
