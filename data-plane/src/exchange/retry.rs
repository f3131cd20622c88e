//! Retry decisions: pure functions of what attempts came to.
//!
//! | what happened | what follows |
//! |---|---|
//! | cannot connect, or nothing was written | next endpoint |
//! | a reused connection broke after the request was written | once more on a new connection; both are one suspicion |
//! | a new connection broke after the request was written, or 500, or an error in a 200 | next endpoint; suspicious |
//! | two suspicious failures | the end: the request may be the cause |
//! | 502, 504 | next endpoint |
//! | a prefill leg used up its share of the time | next placement; suspicious |
//! | 429, 503 | next endpoint; if every endpoint is overloaded, the last such answer is passed on, unless one refused the request |
//! | a 200 that holds nothing | next endpoint, unless the pool's endpoints answer like that |
//! | any other status | passed on, unless this endpoint is doubted: then next endpoint |
//! | a deadline passed | 504: the time is used up |
//!
//! A request that may not be repeated is sent elsewhere only if nothing of it was written.

use hermes_core::ejection::EndpointFailure;
use http::StatusCode;

use crate::{
    link::report::ReportedOutcome,
    telemetry::metrics::{AnswerClass, AttemptOutcome, RequestOutcome},
};

/// Attempts that may fail suspiciously: the request itself may be the cause of such a failure.
const MAX_SUSPICIOUS_FAILURES: u32 = 2;

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum AttemptEnd {
    /// An answer came. Its class, unless what came so far does not determine it.
    Answered(StatusCode, Option<AnswerClass>),
    /// The request was not written.
    Unreachable,
    /// The endpoint may have seen the request, and did not answer.
    Broken,
    /// A deadline passed. `was_full`: the endpoint had all the time that it may take.
    TimedOut { was_full: bool },
    /// As [`Self::TimedOut`], of a leg that had a share of the time: the rest is for another
    /// placement.
    Stalled { was_full: bool },
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

/// What a refusal of this endpoint means: whose fault it may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RefusalContext {
    /// The endpoint refused several requests in a row, and its peers do not refuse as well.
    pub(super) is_doubted: bool,
    /// The peers refuse as much as they serve.
    pub(super) peers_refuse: bool,
}

/// What an attempt says about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptEffect {
    /// It served the request.
    Served,
    /// It failed.
    Failed(AttemptFailure),
    /// It refused the request; whose fault that is, other endpoints show.
    Refused(AnswerClass),
    /// Nothing: the class is not known yet, or the endpoint had no time.
    Nothing,
}

/// A failed attempt, for metrics, the endpoint's health and the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

// === AttemptFailure ===

impl AttemptFailure {
    /// The endpoint said that there were too many requests, perhaps of this client.
    pub(super) fn is_rate_limit(self) -> bool {
        self.health == EndpointFailure::Status(429)
    }
}

// === AttemptEnd ===

impl AttemptEnd {
    /// What follows, if the request may be repeated.
    pub(super) fn verdict(self, refusal: RefusalContext) -> RetryVerdict {
        let elsewhere = |suspicious| RetryVerdict::TryElsewhere { suspicious };
        let (status, class) = match self {
            Self::TimedOut { .. } | Self::Answered(_, None) => return RetryVerdict::Final,
            Self::Unreachable => return elsewhere(false),
            Self::Broken | Self::Stalled { .. } => return elsewhere(true),
            Self::Answered(status, Some(class)) => (status.as_u16(), class),
        };
        match class {
            AnswerClass::Overloaded => elsewhere(false),
            AnswerClass::ErrorEvent => elsewhere(true),
            AnswerClass::EngineError if matches!(status, 500 | 502 | 504) => {
                elsewhere(status == 500)
            }
            AnswerClass::Empty | AnswerClass::NotAnAnswer
                if (200..300).contains(&status) && !refusal.peers_refuse =>
            {
                elsewhere(false)
            }
            _ if self.effect().is_refusal() && refusal.is_doubted => elsewhere(false),
            _ => RetryVerdict::Final,
        }
    }

    /// What follows for a request that may not be repeated.
    pub(super) fn verdict_once(self) -> RetryVerdict {
        match self {
            Self::Unreachable => RetryVerdict::TryElsewhere { suspicious: false },
            _ => RetryVerdict::Final,
        }
    }

    /// What it says about the endpoint.
    pub(super) fn effect(self) -> AttemptEffect {
        let failed = |metric, health, report| {
            AttemptEffect::Failed(AttemptFailure {
                metric,
                health,
                report,
            })
        };
        match self {
            Self::Unreachable => failed(
                AttemptOutcome::Unreachable,
                EndpointFailure::Connect,
                ReportedOutcome::Unreachable,
            ),
            Self::Broken => failed(
                AttemptOutcome::Failed,
                EndpointFailure::Reset,
                ReportedOutcome::Failed,
            ),
            Self::TimedOut { was_full: true } | Self::Stalled { was_full: true } => failed(
                AttemptOutcome::TimedOut,
                EndpointFailure::Timeout,
                ReportedOutcome::TimedOut,
            ),
            Self::TimedOut { was_full: false }
            | Self::Stalled { was_full: false }
            | Self::Answered(_, None) => AttemptEffect::Nothing,
            Self::Answered(status, Some(class)) => of_answer(status.as_u16(), class),
        }
    }
}

/// What an answer says about its endpoint.
fn of_answer(status: u16, class: AnswerClass) -> AttemptEffect {
    let failed = |metric, status, report| {
        AttemptEffect::Failed(AttemptFailure {
            metric,
            health: EndpointFailure::Status(status),
            report,
        })
    };
    match class {
        AnswerClass::Tokens => AttemptEffect::Served,
        AnswerClass::Overloaded => {
            let status = if status == 429 { 429 } else { 503 };
            failed(
                AttemptOutcome::Overloaded,
                status,
                ReportedOutcome::Overloaded,
            )
        }
        AnswerClass::ErrorEvent => failed(AttemptOutcome::Failed, 500, ReportedOutcome::Failed),
        AnswerClass::EngineError if matches!(status, 500 | 502 | 504) => {
            failed(AttemptOutcome::Failed, status, ReportedOutcome::Failed)
        }
        AnswerClass::EngineError
        | AnswerClass::ClientError
        | AnswerClass::Empty
        | AnswerClass::NotAnAnswer => AttemptEffect::Refused(class),
    }
}

impl AttemptEffect {
    pub(super) const fn is_refusal(self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// The outcome of a request whose answer of this class is relayed to its end.
pub(super) const fn outcome_of(class: AnswerClass) -> RequestOutcome {
    match class {
        AnswerClass::Tokens => RequestOutcome::Ok,
        AnswerClass::Overloaded => RequestOutcome::Overloaded,
        AnswerClass::ClientError => RequestOutcome::ClientError,
        AnswerClass::EngineError
        | AnswerClass::ErrorEvent
        | AnswerClass::Empty
        | AnswerClass::NotAnAnswer => RequestOutcome::Failed,
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

    /// Whether another attempt may be made, if it can be paid.
    pub(super) const fn may_continue(&self) -> bool {
        self.suspicious < MAX_SUSPICIOUS_FAILURES && self.tried < self.max
    }

    /// Whether another attempt may follow the one that was begun, should that fail suspiciously.
    pub(super) const fn leave_another(&self) -> bool {
        self.suspicious + 1 < MAX_SUSPICIOUS_FAILURES && self.tried < self.max
    }

    /// Pays for the next attempt. Every attempt after the first is paid from the retry budget.
    pub(super) fn pay(&self, withdraw: impl FnOnce() -> bool) -> bool {
        self.tried == 0 || withdraw()
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
    use crate::exchange::answer;

    fn end(status: u16) -> AttemptEnd {
        let status = StatusCode::from_u16(status).expect("valid");
        let class = if status.is_success() {
            AnswerClass::Tokens
        } else {
            answer::of_status(status)
        };
        AttemptEnd::Answered(status, Some(class))
    }

    fn verdict(status: u16) -> RetryVerdict {
        end(status).verdict(RefusalContext::default())
    }

    fn inside(class: AnswerClass) -> AttemptEnd {
        AttemptEnd::Answered(StatusCode::OK, Some(class))
    }

    const DOUBTED: RefusalContext = RefusalContext {
        is_doubted: true,
        peers_refuse: false,
    };

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
    fn refusals_of_a_doubted_endpoint_get_a_second_opinion() {
        for status in [302, 400, 401, 404, 422, 501] {
            let expected = RetryVerdict::TryElsewhere { suspicious: false };
            assert_eq!(end(status).verdict(DOUBTED), expected, "{status}");
        }
        assert_eq!(end(200).verdict(DOUBTED), RetryVerdict::Final);
    }

    #[test]
    fn a_200_without_an_answer_is_tried_elsewhere_unless_all_answer_like_that() {
        let nothing = RefusalContext::default();
        let alike = RefusalContext {
            peers_refuse: true,
            ..nothing
        };
        for class in [AnswerClass::Empty, AnswerClass::NotAnAnswer] {
            let expected = RetryVerdict::TryElsewhere { suspicious: false };
            assert_eq!(inside(class).verdict(nothing), expected, "{class:?}");
            assert_eq!(inside(class).verdict(alike), RetryVerdict::Final);
        }
        let error = inside(AnswerClass::ErrorEvent).verdict(alike);
        assert_eq!(error, RetryVerdict::TryElsewhere { suspicious: true });
        let client = inside(AnswerClass::ClientError).verdict(nothing);
        assert_eq!(client, RetryVerdict::Final);
    }

    #[test]
    fn a_request_that_may_not_be_repeated_goes_elsewhere_only_if_it_was_not_written() {
        let written = [AttemptEnd::Broken, end(500), end(503), end(400)];
        for written in written {
            assert_eq!(written.verdict_once(), RetryVerdict::Final, "{written:?}");
        }
        assert_ne!(AttemptEnd::Unreachable.verdict_once(), RetryVerdict::Final);
    }

    #[test]
    fn a_request_that_may_be_the_cause_is_tried_twice() {
        let mut attempts = Attempts::up_to(4);
        for end in [AttemptEnd::Broken, end(500)] {
            assert!(attempts.may_continue() && attempts.pay(|| true));
            attempts.begin();
            let verdict = end.verdict(RefusalContext::default());
            let RetryVerdict::TryElsewhere { suspicious } = verdict else {
                panic!("{end:?} is tried elsewhere");
            };
            attempts.failed(suspicious);
        }
        assert!(!attempts.may_continue());
        assert_eq!(attempts.tried(), 2);
    }

    #[test]
    fn a_prefill_that_stalls_is_tried_elsewhere_once() {
        let stalled = AttemptEnd::Stalled { was_full: true };
        let verdict = stalled.verdict(RefusalContext::default());
        assert_eq!(verdict, RetryVerdict::TryElsewhere { suspicious: true });
        let mut attempts = Attempts::up_to(4);
        attempts.begin();
        assert!(attempts.leave_another());
        attempts.failed(true);
        attempts.begin();
        assert!(!attempts.leave_another(), "the request may be the cause");
        let mut last = Attempts::up_to(1);
        last.begin();
        assert!(!last.leave_another());
    }

    #[test]
    fn attempts_after_the_first_are_limited_and_paid() {
        let mut attempts = Attempts::up_to(2);
        assert!(attempts.may_continue() && attempts.pay(|| panic!("the first is free")));
        attempts.begin();
        attempts.failed(false);
        assert!(attempts.may_continue() && !attempts.pay(|| false) && attempts.pay(|| true));
        attempts.begin();
        attempts.failed(false);
        assert!(!attempts.may_continue(), "the limit comes first");
    }

    #[test]
    fn only_failures_of_the_endpoint_are_failures() {
        assert_eq!(end(200).effect(), AttemptEffect::Served);
        let refused = AttemptEffect::Refused(AnswerClass::ClientError);
        assert_eq!(end(400).effect(), refused);
        let AttemptEffect::Failed(busy) = end(429).effect() else {
            panic!("overload")
        };
        assert_eq!(busy.report, ReportedOutcome::Overloaded);
        let stalled = AttemptEnd::Stalled { was_full: true };
        assert_eq!(
            stalled.effect(),
            AttemptEnd::TimedOut { was_full: true }.effect()
        );
        let late = AttemptEnd::TimedOut { was_full: false };
        assert_eq!(late.effect(), AttemptEffect::Nothing, "it had no full time");
        let not_implemented = answer::of_status(StatusCode::NOT_IMPLEMENTED);
        assert_eq!(outcome_of(not_implemented), RequestOutcome::Failed);
    }
}
