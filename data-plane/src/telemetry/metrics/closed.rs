//! The closed sets that labels take their values from.

/// How a routed request ended, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Answered to the last byte below 400.
    Ok,
    /// Answered to the last byte with 4xx, 429 excepted.
    ClientError,
    /// Answered with 429 or 503.
    Busy,
    /// Answered with another 5xx, or not at all.
    Failed,
    /// The client left.
    Cancelled,
    /// A deadline passed.
    TimedOut,
    /// The answer broke off after its first byte.
    Broken,
}

/// The step of the ladder on which an endpoint was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rung {
    /// By a strategy that needs no control plane.
    #[default]
    Strategy,
    /// By the control plane, in time.
    Score,
    /// By the snapshot and what this proxy knows, because no answer came.
    Local,
    /// Power of two on this proxy's own requests, because the snapshot's load is too old.
    PowerOfTwo,
    /// Any endpoint, because none seems healthy.
    Any,
}

/// Why the control plane's answer was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScoreFailure {
    /// No replica is connected.
    Away,
    /// No answer within the deadline.
    Late,
    /// The stream broke, or could not take more.
    Broken,
    /// The replica refused, or named endpoints that this snapshot does not have.
    Refused,
}

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// An answer that is passed on.
    Answered,
    /// 429 or 503.
    Busy,
    /// Could not be reached.
    Unreachable,
    /// Broke, or answered 500, 502 or 504.
    Failed,
    /// A deadline passed.
    TimedOut,
}

/// What became of a snapshot or delta that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is in use, or was.
    Accepted,
    /// This proxy cannot use it.
    Rejected,
}

/// The names of [`hermes_core::load::Health`].
pub(super) const ENDPOINT_STATES: [&str; 3] = ["up", "warming", "down"];

// === Names ===

impl Ended {
    pub(super) const ALL: [(Self, &'static str); 7] = [
        (Self::Ok, "ok"),
        (Self::ClientError, "client_error"),
        (Self::Busy, "busy"),
        (Self::Failed, "failed"),
        (Self::Cancelled, "cancelled"),
        (Self::TimedOut, "timed_out"),
        (Self::Broken, "broken"),
    ];

    pub(crate) const fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

impl Rung {
    pub(super) const ALL: [(Self, &'static str); 5] = [
        (Self::Strategy, "strategy"),
        (Self::Score, "score"),
        (Self::Local, "local"),
        (Self::PowerOfTwo, "power-of-two"),
        (Self::Any, "any"),
    ];

    pub(crate) const fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

impl ScoreFailure {
    pub(super) const ALL: [(Self, &'static str); 4] = [
        (Self::Away, "away"),
        (Self::Late, "late"),
        (Self::Broken, "broken"),
        (Self::Refused, "refused"),
    ];
}

impl Attempt {
    pub(super) const ALL: [(Self, &'static str); 5] = [
        (Self::Answered, "answered"),
        (Self::Busy, "busy"),
        (Self::Unreachable, "unreachable"),
        (Self::Failed, "failed"),
        (Self::TimedOut, "timed_out"),
    ];
}

impl Arrival {
    pub(super) const ALL: [(Self, &'static str); 2] =
        [(Self::Accepted, "accepted"), (Self::Rejected, "rejected")];

    pub(super) const fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_sets_stand_in_the_order_of_their_variants() {
        assert!(
            Ended::ALL
                .iter()
                .enumerate()
                .all(|(index, (ended, _))| *ended as usize == index)
        );
        assert!(
            Rung::ALL
                .iter()
                .enumerate()
                .all(|(index, (rung, _))| *rung as usize == index)
        );
        assert!(
            ScoreFailure::ALL
                .iter()
                .enumerate()
                .all(|(index, (why, _))| *why as usize == index)
        );
        assert!(
            Attempt::ALL
                .iter()
                .enumerate()
                .all(|(index, (how, _))| *how as usize == index)
        );
        assert!(
            Arrival::ALL
                .iter()
                .enumerate()
                .all(|(index, (how, _))| *how as usize == index)
        );
    }
}
