//! When an endpoint that fails is left alone, and how it comes back.
//!
//! ```text
//!            failures in a row                until is over,
//!   Closed ────────────────────▶ Open ───────────────────────▶ Trial (one request)
//!     ▲                           ▲ ▲ failure: out twice as long   │
//!     │ warm_up is over           │ └──────────────────────────────┤
//!     └──────────── Warming ◀─────┼────────────────── success ─────┘
//!                     ▲    └──────┘ failure
//!                     └──────────── Unreachable ◀── two probes refused, from any state
//!                        probe answered
//! ```
//!
//! A pure state machine for one endpoint: `now` is the time since any fixed start, and must not go backwards.
//! It never stops traffic by itself: when nothing better is left, a choice takes endpoints that are down.

use std::time::Duration;

use crate::{load::Health, policy::BreakerPolicy};

/// Refused probes in a row that make an endpoint unreachable.
const REFUSED_PROBES: u32 = 2;
/// Share of its turns that an endpoint takes as soon as it comes back.
const FIRST_SHARE: f32 = 0.1;

/// How an attempt failed before the first byte of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The connection was refused, or its host is unknown or unreachable.
    Connect,
    /// The connection, or the first byte, took longer than allowed.
    Timeout,
    /// The connection broke.
    Reset,
    /// An answer with this status came.
    Status(u16),
}

/// What a failure says about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// It is broken.
    Endpoint,
    /// It is alive and has enough to do: 429, 503.
    Backpressure,
    /// It is alive and the request was wrong.
    Request,
}

/// One endpoint's breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    state: State,
    /// Times out in a row: every further one lasts longer.
    outs: u32,
    /// Probes in a row that were refused.
    refused: u32,
}

/// Where a [`Breaker`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// In service.
    Closed {
        /// Failures in a row so far.
        failures: u32,
    },
    /// Left alone.
    Open {
        /// When a trial is due.
        until: Duration,
    },
    /// One request is finding out.
    Trial {
        /// When it was let through.
        since: Duration,
    },
    /// Back, with a growing share of turns.
    Warming {
        /// When it came back.
        since: Duration,
    },
    /// Nothing listens there; only an answered probe, or request, ends this.
    Unreachable,
}

// === Failure ===

impl Failure {
    /// Whose fault it is.
    #[must_use]
    pub const fn blame(self) -> Blame {
        match self {
            Self::Connect | Self::Timeout | Self::Reset | Self::Status(500 | 502 | 504) => {
                Blame::Endpoint
            }
            Self::Status(429 | 503) => Blame::Backpressure,
            Self::Status(_) => Blame::Request,
        }
    }
}

// === Breaker ===

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub const fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            state: State::Closed { failures: 0 },
            outs: 0,
            refused: 0,
        }
    }

    /// Follows a changed policy from now on.
    pub fn set_policy(&mut self, policy: BreakerPolicy) {
        self.policy = policy;
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether, and how much, the endpoint takes part in choices.
    ///
    /// When a trial is due it takes a small share of turns; [`Self::try_trial`] then lets one of them through.
    #[must_use]
    pub fn health(&self, now: Duration) -> Health {
        match self.state {
            State::Closed { .. } => Health::Up,
            State::Open { until } if now >= until => Health::Warming(FIRST_SHARE),
            State::Trial { since } if self.is_lost(since, now) => Health::Warming(FIRST_SHARE),
            State::Open { .. } | State::Trial { .. } | State::Unreachable => Health::Down,
            State::Warming { since } => match self.share(since, now) {
                share if share < 1.0 => Health::Warming(share),
                _ => Health::Up,
            },
        }
    }

    /// Whether a chosen request may go there now: at most one at a time while the endpoint is on trial.
    ///
    /// Every request that was let through must report what became of it.
    pub fn try_trial(&mut self, now: Duration) -> bool {
        match self.state {
            State::Closed { .. } | State::Warming { .. } => true,
            State::Open { until: due } if now < due => false,
            State::Trial { since } if !self.is_lost(since, now) => false,
            State::Unreachable => false,
            State::Open { .. } | State::Trial { .. } => {
                self.state = State::Trial { since: now };
                true
            }
        }
    }

    /// An attempt got its first byte, with a status that is nobody's failure.
    pub fn on_success(&mut self, now: Duration) {
        match self.state {
            State::Closed { .. } => self.state = State::Closed { failures: 0 },
            State::Warming { since } if self.share(since, now) >= 1.0 => self.close(),
            State::Warming { .. } => {}
            // Sent before it opened: that says nothing new.
            State::Open { until } if now < until => {}
            State::Open { .. } | State::Trial { .. } | State::Unreachable => self.warm(now),
        }
        self.refused = 0;
    }

    /// An attempt failed before its first byte. Failures that are not the endpoint's are no failures here.
    pub fn on_failure(&mut self, now: Duration, failure: Failure) {
        match failure.blame() {
            Blame::Endpoint => self.count(now),
            Blame::Backpressure => self.postpone(now),
            Blame::Request => self.on_success(now),
        }
    }

    /// An attempt ended before anything came of it: its client went away. The next request may try.
    pub fn on_abandoned(&mut self, now: Duration) {
        if matches!(self.state, State::Trial { .. }) {
            self.state = State::Open { until: now };
        }
    }

    /// An active probe, such as a scrape of metrics, was answered.
    pub fn probe_ok(&mut self, now: Duration) {
        self.refused = 0;
        // An engine can answer probes and fail requests: only what a probe ended, a probe mends.
        if self.state == State::Unreachable {
            self.warm(now);
        }
    }

    /// An active probe's connection was refused. Slow or wrong answers to probes do not count.
    pub fn probe_failed(&mut self) {
        self.refused = self.refused.saturating_add(1);
        if self.refused >= REFUSED_PROBES {
            self.state = State::Unreachable;
        }
    }

    /// One failure of the endpoint itself.
    fn count(&mut self, now: Duration) {
        match self.state {
            State::Closed { failures } if failures + 1 < self.policy.failures => {
                self.state = State::Closed {
                    failures: failures + 1,
                };
            }
            State::Warming { since } if self.share(since, now) >= 1.0 => {
                self.close();
                self.count(now);
            }
            State::Closed { .. } | State::Warming { .. } | State::Trial { .. } => self.open(now),
            // Due, and tried without asking because nothing else was left.
            State::Open { until } if now >= until => self.open(now),
            State::Open { .. } | State::Unreachable => {}
        }
    }

    /// A trial that met a full endpoint proves nothing: the same time out again.
    fn postpone(&mut self, now: Duration) {
        if matches!(self.state, State::Trial { .. }) {
            self.state = State::Open {
                until: now + self.out(),
            };
        }
    }

    fn open(&mut self, now: Duration) {
        self.outs = self.outs.saturating_add(1);
        self.state = State::Open {
            until: now + self.out(),
        };
    }

    fn warm(&mut self, now: Duration) {
        self.state = State::Warming { since: now };
    }

    fn close(&mut self) {
        self.outs = 0;
        self.state = State::Closed { failures: 0 };
    }

    /// How long the current time out lasts.
    fn out(&self) -> Duration {
        let doublings = self.outs.saturating_sub(1).min(31);
        self.policy
            .base
            .saturating_mul(1 << doublings)
            .min(self.policy.longest)
    }

    /// The share of turns of an endpoint that came back at `since`.
    fn share(&self, since: Duration, now: Duration) -> f32 {
        let warm_up = self.policy.warm_up.as_secs_f32();
        let warm = now.saturating_sub(since).as_secs_f32();
        if warm >= warm_up {
            1.0
        } else {
            (warm / warm_up).max(FIRST_SHARE)
        }
    }

    /// A trial of which nobody ever reported must not keep the endpoint out for good.
    fn is_lost(&self, since: Duration, now: Duration) -> bool {
        now.saturating_sub(since) >= self.policy.longest.max(self.policy.base)
    }
}

#[cfg(test)]
mod tests;
