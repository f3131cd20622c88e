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
//! Beside failures in a row, an endpoint is ejected when it refuses far more than its peers
//! ([`RefusalRecord`]). One that has too much to do cools down: it is chosen last, until the time
//! that it asked for is over.
//!
//! A pure state machine for one endpoint: `now` is the time since any fixed start, and must not go
//! backwards. It never stops traffic by itself: when nothing better is left, a choice takes
//! endpoints that are down.

use std::time::Duration;

use super::{
    cooldown::Cooldown,
    refusals::{AnswerCounts, PeerAnswers, RefusalRecord, SecondOpinion},
};
use crate::{load::Health, policy::EjectionPolicy};

/// Refused probes in a row that make an endpoint unreachable.
const REFUSED_PROBES: u32 = 2;
/// Share of its turns that an endpoint takes as soon as it comes back.
const FIRST_SHARE: f32 = 0.1;

/// How an attempt failed before the first byte of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndpointFailure {
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
pub enum FailureBlame {
    /// It is broken.
    Endpoint,
    /// It is alive and has enough to do: 429, 503.
    Overload,
    /// It is alive and the request was wrong.
    Request,
}

/// One endpoint's breaker.
#[derive(Clone, Debug)]
pub struct EndpointHealth {
    policy: EjectionPolicy,
    state: EjectionState,
    /// Times out in a row: every further one lasts longer.
    ejections: u32,
    /// Probes in a row that were refused.
    refused: u32,
    refusals: RefusalRecord,
    cooldown: Cooldown,
}

/// Identifies the one request that finds out whether an endpoint is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrialTicket {
    since: Duration,
}

/// Where a [`EndpointHealth`] stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectionState {
    /// In service.
    InService {
        /// Failures in a row so far.
        failures: u32,
    },
    /// Left alone.
    Ejected {
        /// When a trial is due.
        until: Duration,
    },
    /// One request is finding out.
    Trial {
        /// When it was let through.
        since: Duration,
    },
    /// Back, with a growing share of turns.
    SlowStart {
        /// When it came back.
        since: Duration,
    },
    /// Nothing listens there; only an answered probe, or request, ends this.
    Unreachable,
}

// === EndpointFailure ===

impl EndpointFailure {
    /// Whose fault it is.
    #[must_use]
    pub const fn blame(self) -> FailureBlame {
        match self {
            Self::Connect | Self::Timeout | Self::Reset | Self::Status(500 | 502 | 504) => {
                FailureBlame::Endpoint
            }
            Self::Status(429 | 503) => FailureBlame::Overload,
            Self::Status(_) => FailureBlame::Request,
        }
    }
}

// === EndpointHealth ===

impl EndpointHealth {
    /// A closed breaker.
    #[must_use]
    pub fn new(policy: EjectionPolicy) -> Self {
        Self {
            policy,
            state: EjectionState::InService { failures: 0 },
            ejections: 0,
            refused: 0,
            refusals: RefusalRecord::default(),
            cooldown: Cooldown::default(),
        }
    }

    /// Follows a changed policy from now on.
    pub fn set_policy(&mut self, policy: EjectionPolicy) {
        self.policy = policy;
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> EjectionState {
        self.state
    }

    /// Whether, and how much, the endpoint takes part in choices.
    ///
    /// When a trial is due it takes a small share of turns; [`Self::try_trial`] then lets one of
    /// them through. While it cools down it takes no turn, and is chosen before those that are
    /// down.
    #[must_use]
    pub fn health(&self, now: Duration) -> Health {
        let health = self.health_by_failures(now);
        if self.cooldown.is_over(now) {
            health
        } else {
            health.worse(Health::Warming(0.0))
        }
    }

    fn health_by_failures(&self, now: Duration) -> Health {
        match self.state {
            EjectionState::InService { .. } => Health::Up,
            EjectionState::Ejected { until } if now >= until => Health::Warming(FIRST_SHARE),
            EjectionState::Trial { since } if self.is_lost(since, now) => {
                Health::Warming(FIRST_SHARE)
            }
            EjectionState::Ejected { .. }
            | EjectionState::Trial { .. }
            | EjectionState::Unreachable => Health::Down,
            EjectionState::SlowStart { since } => match self.share(since, now) {
                share if share < 1.0 => Health::Warming(share),
                _ => Health::Up,
            },
        }
    }

    /// Whether a chosen request may go there now: at most one at a time while the endpoint is on
    /// trial.
    ///
    /// Every request that was let through must report what became of it.
    pub fn try_trial(&mut self, now: Duration) -> bool {
        if !self.cooldown.is_over(now) {
            return false;
        }
        match self.state {
            EjectionState::InService { .. } | EjectionState::SlowStart { .. } => true,
            EjectionState::Ejected { until: due } if now < due => false,
            EjectionState::Trial { since } if !self.is_lost(since, now) => false,
            EjectionState::Unreachable => false,
            EjectionState::Ejected { .. } | EjectionState::Trial { .. } => {
                self.state = EjectionState::Trial { since: now };
                true
            }
        }
    }

    /// The trial that goes on: after [`Self::try_trial`], that of the request which was let
    /// through.
    #[must_use]
    pub const fn trial(&self) -> Option<TrialTicket> {
        match self.state {
            EjectionState::Trial { since } => Some(TrialTicket { since }),
            _ => None,
        }
    }

    /// A request was served.
    pub fn on_success(&mut self, now: Duration) {
        self.refusals.on_served(now);
        self.cooldown.served();
        self.answered(now);
    }

    /// An answer came that is no failure of the endpoint.
    fn answered(&mut self, now: Duration) {
        match self.state {
            EjectionState::InService { .. } => {
                self.state = EjectionState::InService { failures: 0 }
            }
            EjectionState::SlowStart { since } if self.share(since, now) >= 1.0 => self.close(),
            EjectionState::SlowStart { .. } => {}
            // Sent before it opened: that says nothing new.
            EjectionState::Ejected { until } if now < until => {}
            EjectionState::Ejected { .. }
            | EjectionState::Trial { .. }
            | EjectionState::Unreachable => self.warm(now),
        }
        self.refused = 0;
    }

    /// An attempt failed before its first byte. Failures that are not the endpoint's are no
    /// failures here. Returns whether the endpoint is ejected by it.
    pub fn on_failure(&mut self, now: Duration, failure: EndpointFailure) -> bool {
        let before = self.ejections;
        match failure.blame() {
            FailureBlame::Endpoint => self.count(now),
            FailureBlame::Overload => self.on_overload(now, None, &PeerAnswers::default()),
            FailureBlame::Request => self.answered(now),
        }
        self.ejections > before
    }

    /// The endpoint has too much to do, and perhaps says for how long. It cools down for at most
    /// the policy's longest time, and only if its pool can do without it: a client over its quota
    /// gets such an answer from every endpoint. Without a time of its own it cools down only while
    /// its peers serve what it does not.
    pub fn on_overload(
        &mut self,
        now: Duration,
        retry_after: Option<Duration>,
        peers: &PeerAnswers,
    ) {
        self.postpone(now);
        let longest = self.policy.max_time.max(self.policy.base_time);
        let own = self.cooldown.overloaded(now);
        let asked = retry_after.filter(|_| peers.can_spare_one());
        let wait = asked.or(own.filter(|_| peers.can_stand_in()));
        let wait = wait.unwrap_or_default().min(longest);
        self.cooldown.begin(now, wait, asked.is_some());
    }

    /// A request was refused, which is no failure by itself. Returns whether the endpoint is
    /// ejected by it: it refuses far more than `peers`, the other endpoints of its pool.
    pub fn on_refusal(
        &mut self,
        now: Duration,
        opinion: SecondOpinion,
        peers: &PeerAnswers,
    ) -> bool {
        self.refusals.on_refused(now, opinion);
        if matches!(
            opinion,
            SecondOpinion::Confirmed | SecondOpinion::Unavailable
        ) {
            self.on_abandoned(now);
            return false;
        }
        let is_on_trial = matches!(self.state, EjectionState::Trial { .. });
        let is_out = match self.state {
            EjectionState::Trial { .. } if opinion == SecondOpinion::Contradicted => true,
            EjectionState::InService { .. }
            | EjectionState::SlowStart { .. }
            | EjectionState::Trial { .. } => self.refusals.is_outlier(now, peers),
            EjectionState::Ejected { .. } | EjectionState::Unreachable => false,
        };
        if is_out {
            self.open(now);
        } else if is_on_trial {
            // It answers, which it did not when it was ejected.
            self.answered(now);
        }
        is_out
    }

    /// Whether a refusal that just came is to be repeated at a peer before an endpoint is blamed.
    #[must_use]
    pub fn needs_second_opinion(&self, peers: &PeerAnswers) -> bool {
        let is_on_trial = matches!(self.state, EjectionState::Trial { .. });
        is_on_trial || self.refusals.needs_second_opinion(peers)
    }

    /// Its answers of the last minute at most.
    #[must_use]
    pub fn answers(&self, now: Duration) -> AnswerCounts {
        self.refusals.counts(now)
    }

    /// An attempt ended before anything came of it: its client went away. The next request may try.
    pub fn on_abandoned(&mut self, now: Duration) {
        if matches!(self.state, EjectionState::Trial { .. }) {
            self.state = EjectionState::Ejected { until: now };
        }
    }

    /// As [`Self::on_abandoned`], of the request that is the trial: one that another request has
    /// begun since then goes on.
    pub fn on_trial_abandoned(&mut self, now: Duration, trial: TrialTicket) {
        if self.trial() == Some(trial) {
            self.on_abandoned(now);
        }
    }

    /// The endpoint said 429 to a request, and so did another one: the client is over its quota.
    /// That ends a cool-down which such an answer began, and proves nothing of a trial.
    pub fn on_limited(&mut self, now: Duration) {
        self.refusals.on_limited(now);
        self.cooldown.revoke();
        self.postpone(now);
    }

    /// Whether a 429 that just came is taken for its client's quota: some endpoint of the pool said
    /// it within the last minute to a request that met it elsewhere, too.
    #[must_use]
    pub fn suspects_quota(&self, now: Duration, peers: &PeerAnswers) -> bool {
        self.answers(now).limited > 0 || peers.counts.limited > 0
    }

    /// An active probe, such as a scrape of metrics, was answered.
    pub fn probe_ok(&mut self, now: Duration) {
        self.refused = 0;
        // An engine can answer probes and fail requests: only a state that a probe set is ended by
        // one.
        if self.state == EjectionState::Unreachable {
            self.warm(now);
        }
    }

    /// An active probe's connection was refused. Slow or wrong answers to probes do not count.
    pub fn probe_failed(&mut self) {
        self.refused = self.refused.saturating_add(1);
        if self.refused >= REFUSED_PROBES {
            self.state = EjectionState::Unreachable;
        }
    }

    /// One failure of the endpoint itself.
    fn count(&mut self, now: Duration) {
        match self.state {
            EjectionState::InService { failures }
                if failures + 1 < self.policy.consecutive_failures =>
            {
                self.state = EjectionState::InService {
                    failures: failures + 1,
                };
            }
            EjectionState::SlowStart { since } if self.share(since, now) >= 1.0 => {
                self.close();
                self.count(now);
            }
            EjectionState::InService { .. }
            | EjectionState::SlowStart { .. }
            | EjectionState::Trial { .. } => self.open(now),
            // Due, and tried without asking because nothing else was left.
            EjectionState::Ejected { until } if now >= until => self.open(now),
            EjectionState::Ejected { .. } | EjectionState::Unreachable => {}
        }
    }

    /// A trial that met a full endpoint proves nothing: the same time out again.
    fn postpone(&mut self, now: Duration) {
        if matches!(self.state, EjectionState::Trial { .. }) {
            self.state = EjectionState::Ejected {
                until: now + self.ejection_time(),
            };
        }
    }

    fn open(&mut self, now: Duration) {
        self.ejections = self.ejections.saturating_add(1);
        self.state = EjectionState::Ejected {
            until: now + self.ejection_time(),
        };
    }

    fn warm(&mut self, now: Duration) {
        self.state = EjectionState::SlowStart { since: now };
    }

    fn close(&mut self) {
        self.ejections = 0;
        self.state = EjectionState::InService { failures: 0 };
    }

    /// How long the current time out lasts.
    fn ejection_time(&self) -> Duration {
        let doublings = self.ejections.saturating_sub(1).min(31);
        self.policy
            .base_time
            .saturating_mul(1 << doublings)
            .min(self.policy.max_time)
    }

    /// The share of turns of an endpoint that came back at `since`.
    fn share(&self, since: Duration, now: Duration) -> f32 {
        let warm_up = self.policy.slow_start.as_secs_f32();
        let warm = now.saturating_sub(since).as_secs_f32();
        if warm >= warm_up {
            1.0
        } else {
            (warm / warm_up).max(FIRST_SHARE)
        }
    }

    /// A trial without a report must not keep the endpoint ejected forever.
    fn is_lost(&self, since: Duration, now: Duration) -> bool {
        now.saturating_sub(since) >= self.policy.max_time.max(self.policy.base_time)
    }
}

#[cfg(test)]
mod tests;
