//! The times of the pair that a request was sent to last: where its time to first token went.
//!
//! ```text
//!   serial   prefill sent ─▶ answered ─▶ decode sent ────────────────▶ first token
//!            └─ prefill ────┘└ handover ─┘└─ transfer ─┘└ first step ──┘
//!   at once  both sent ────▶ answered ───────────────────────────────▶ first token
//!            └─ prefill ────┘└─ transfer ──────────────┘└ first step ──┘
//! ```
//!
//! A decode engine does not report when the KV cache arrived. Of the time from the decode leg's
//! sending to its first token, the mean time per output token of the same stream is counted as the
//! first step, and the rest as the transfer.

use std::time::Duration;

use hermes_core::snapshot::EndpointId;
use tokio::time::Instant;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct PairTimes {
    prefill_sent: Instant,
    prefill_answered: Option<Instant>,
    decode_sent: Option<Instant>,
}

/// An attempt at a pair whose legs are sent here.
#[derive(Debug)]
pub(super) struct PairAttempt {
    pub(super) times: PairTimes,
    /// The decode endpoint, if it may have failed and its partner is blamed.
    pub(super) doubted: Option<EndpointId>,
}

/// The parts of a pair's time to first token, as far as they are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TtftParts {
    pub(super) prefill: Option<Duration>,
    pub(super) handover: Option<Duration>,
    pub(super) transfer: Option<Duration>,
    pub(super) first_step: Option<Duration>,
}

impl PairTimes {
    /// The prefill leg was sent.
    pub(super) const fn starting(now: Instant) -> Self {
        Self {
            prefill_sent: now,
            prefill_answered: None,
            decode_sent: None,
        }
    }

    /// The prefill leg was answered to its last byte.
    pub(super) const fn prefill_answered(&mut self, at: Instant) {
        self.prefill_answered = Some(at);
    }

    /// The decode leg was sent.
    pub(super) const fn decode_sent(&mut self, at: Instant) {
        self.decode_sent = Some(at);
    }

    /// From the prefill's answer to the sending of the decode leg; `None` for legs that were sent
    /// at once.
    pub(super) fn handover(&self) -> Option<Duration> {
        self.decode_sent?
            .checked_duration_since(self.prefill_answered?)
    }

    /// What the decode endpoint took for the first token, once the prompt was computed.
    pub(super) fn decode(&self, first_token: Instant) -> Option<Duration> {
        let begun = self.decode_sent?.max(self.prefill_answered?);
        first_token.checked_duration_since(begun)
    }

    /// The parts of the time to this first token. `step`: the mean time per output token.
    pub(super) fn parts(&self, first_token: Instant, step: Option<Duration>) -> TtftParts {
        let decode = self.decode(first_token);
        let first_step = decode.zip(step).map(|(decode, step)| decode.min(step));
        TtftParts {
            prefill: self
                .prefill_answered
                .map(|answered| answered - self.prefill_sent),
            handover: self.handover(),
            transfer: decode.map(|decode| decode - first_step.unwrap_or_default()),
            first_step,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_parts_of_a_serial_pair_add_up_to_its_time_to_first_token() {
        let start = Instant::now();
        let mut times = PairTimes::starting(start);
        times.prefill_answered(start + ms(300));
        times.decode_sent(start + ms(301));
        let parts = times.parts(start + ms(371), Some(ms(20)));
        let expected = TtftParts {
            prefill: Some(ms(300)),
            handover: Some(ms(1)),
            transfer: Some(ms(50)),
            first_step: Some(ms(20)),
        };
        assert_eq!(parts, expected);
    }

    #[test]
    fn legs_that_are_sent_at_once_have_no_handover() {
        let start = Instant::now();
        let mut times = PairTimes::starting(start);
        times.decode_sent(start + ms(1));
        assert_eq!(times.parts(start + ms(9), None), TtftParts::default());
        times.prefill_answered(start + ms(100));
        let parts = times.parts(start + ms(130), None);
        assert_eq!((parts.handover, parts.transfer), (None, Some(ms(30))));
        assert_eq!(parts.first_step, None, "no stream shows it");
    }

    #[test]
    fn a_first_token_that_overtakes_its_prefill_has_no_transfer() {
        let start = Instant::now();
        let mut times = PairTimes::starting(start);
        times.decode_sent(start);
        times.prefill_answered(start + ms(100));
        assert_eq!(times.decode(start + ms(95)), None);
    }
}
