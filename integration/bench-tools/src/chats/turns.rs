//! The questions of one user, and the single prompts, each with its time.

use std::time::Duration;

use clap::ValueEnum;
use hermes_core::rng::SeededRng;

use super::{Chats, Pace, Prompt};

/// How the times between two questions of a user vary around their mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Pauses {
    /// Evenly, by a fifth
    #[default]
    Even,
    /// Exponentially, after a tenth of the mean
    Exponential,
}

/// A question of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Since the beginning; not before the answer to the user's last question.
    pub due: Duration,
    /// Which session.
    pub session: u64,
    /// Which round of it, from zero.
    pub round: usize,
}

impl Turn {
    /// What is sent.
    #[must_use]
    pub fn prompt(self) -> Prompt {
        let Self { session, round, .. } = self;
        Prompt::Question { session, round }
    }
}

/// The questions of one user, in order.
#[derive(Debug)]
pub struct Turns {
    chats: Chats,
    gap: Option<f64>,
    rng: SeededRng,
    due: f64,
    session: u64,
    round: usize,
    /// Of the current session.
    left: usize,
}

/// The prompts that belong to no chat, in order: a Poisson process.
#[derive(Debug)]
pub struct SinglePrompts {
    rng: SeededRng,
    per_second: f64,
    tokens: usize,
    at: f64,
    number: u64,
}

impl Chats {
    /// The questions of `user`, which is below the number of users.
    #[must_use]
    pub fn turns(&self, user: usize) -> Turns {
        let mut rng = SeededRng::new(stream(self.seed, user as u64 + 1));
        let (due, left) = match (self.pace, self.gap()) {
            (Pace::AsAnswered { stagger, .. }, _) => {
                (stagger.as_secs_f64() * user as f64, self.rounds)
            }
            // The first sessions end one after the other, so that new ones come in evenly.
            (_, gap) => (
                gap.unwrap_or_default() * f64::from(rng.unit()),
                (self.rounds * (user + 1) / self.users).max(1),
            ),
        };
        Turns {
            chats: *self,
            gap: self.gap(),
            rng,
            due,
            session: user as u64,
            round: 0,
            left,
        }
    }

    /// The prompts that belong to no chat; `None` if there are none.
    #[must_use]
    pub fn single_prompts(&self) -> Option<SinglePrompts> {
        let Pace::Timed {
            per_second,
            singles,
            ..
        } = self.pace
        else {
            return None;
        };
        (singles.share > 0.0).then(|| SinglePrompts {
            rng: SeededRng::new(stream(self.seed, 0)),
            per_second: per_second * singles.share,
            tokens: singles.tokens,
            at: 0.0,
            number: 0,
        })
    }
}

impl Turns {
    /// Goes to the next question; `false` after the last one.
    fn advance(&mut self) -> bool {
        (self.round, self.left) = (self.round + 1, self.left - 1);
        let Some(gap) = self.gap else {
            return self.left > 0;
        };
        self.due += match self.chats.pace {
            Pace::Timed {
                pauses: Pauses::Exponential,
                ..
            } => gap * (0.1 + 0.9 * exponential(&mut self.rng)),
            _ => gap * (0.8 + 0.4 * f64::from(self.rng.unit())),
        };
        if self.left == 0 {
            self.session += self.chats.users as u64;
            (self.round, self.left) = (0, self.chats.rounds);
        }
        true
    }
}

impl Iterator for Turns {
    type Item = Turn;

    fn next(&mut self) -> Option<Turn> {
        if self.left == 0 {
            return None;
        }
        let turn = Turn {
            due: seconds(self.due),
            session: self.session,
            round: self.round,
        };
        self.advance();
        Some(turn)
    }
}

impl Iterator for SinglePrompts {
    type Item = (Duration, Prompt);

    fn next(&mut self) -> Option<Self::Item> {
        self.at += exponential(&mut self.rng) / self.per_second;
        let tokens = self.tokens as f64 * (0.5 + f64::from(self.rng.unit()));
        let prompt = Prompt::Single {
            number: self.number,
            tokens: (tokens as usize).max(1),
        };
        self.number += 1;
        Some((seconds(self.at), prompt))
    }
}

/// A number from the exponential distribution of mean one.
fn exponential(rng: &mut SeededRng) -> f64 {
    -(1.0 - f64::from(rng.unit())).ln()
}

/// Far beyond what any run lasts is as good a time as any.
fn seconds(at: f64) -> Duration {
    Duration::try_from_secs_f64(at).unwrap_or(Duration::MAX)
}

/// A seed for each of the independent streams of random numbers.
fn stream(seed: u64, number: u64) -> u64 {
    SeededRng::new(seed ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93)).next_u64()
}
