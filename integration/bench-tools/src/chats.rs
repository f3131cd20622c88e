//! Users who chat, and single prompts between them: who sends what, and when it is due.
//!
//! ```text
//! Chats ─┬─▶ turns of each user ─┬─▶ load: over HTTP; a turn waits for the answer before it
//!        └─▶ single prompts ─────┴─▶ simulate: in order of time, as named blocks
//! ```
//!
//! The shape is that of the `multi-round-qa` benchmark of the vLLM production stack: all users
//! share a system prompt, each session has a history of its own, and it grows by a question and an
//! answer a round. A user begins a new session, with another history, after the last round of one.
//! The first sessions are shorter, each by another number of rounds, so that new ones come in
//! evenly.
//!
//! Pure and deterministic: everything follows from the seed, and nothing here waits.

mod args;
mod arrivals;
mod turns;

use std::time::Duration;

pub use self::args::ChatArgs;
pub use self::arrivals::{ChatRequest, ChatRequests};
pub use self::turns::{Pauses, SinglePrompts, Turn, Turns};

/// The shape of the chats.
#[derive(Clone, Copy, Debug)]
pub struct Chats {
    /// People chatting at the same time; at least one.
    pub users: usize,
    /// Questions of one session; at least one.
    pub rounds: usize,
    /// Tokens of the system prompt that all share.
    pub system_tokens: usize,
    /// Tokens of the history that each session begins with.
    pub history_tokens: usize,
    /// Tokens of each question.
    pub question_tokens: usize,
    /// Tokens of each answer, at most.
    pub answer_tokens: usize,
    /// When questions are due.
    pub pace: Pace,
    /// Decides every time and every text.
    pub seed: u64,
}

/// When the questions of users are due.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Each as soon as the answer before it was read, for one session of each user.
    AsAnswered {
        /// Between an answer and the next question of the same user.
        think: Duration,
        /// Between the first questions of one user and the next.
        stagger: Duration,
    },
    /// At times of their own, session after session, without end. A question that is due before the
    /// answer to the last one has arrived is asked then.
    Timed {
        /// Requests a second, of all users and of single prompts together; above zero.
        per_second: f64,
        /// How the times between two questions of a user vary.
        pauses: Pauses,
        /// Prompts that belong to no chat.
        singles: Singles,
    },
}

/// Prompts that belong to no chat and never come again.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Singles {
    /// Their part of all requests, `0.0..1.0`.
    pub share: f64,
    /// Tokens of each in the mean; lengths are spread evenly from half to one and a half of it.
    pub tokens: usize,
}

/// A prompt, as far as it decides what it shares with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A question of a session: system prompt, history, and all rounds before it.
    Question {
        /// Which session; no two users have one number.
        session: u64,
        /// Which round of it, from zero.
        round: usize,
    },
    /// A prompt of its own.
    Single {
        /// Which one.
        number: u64,
        /// Its length.
        tokens: usize,
    },
}

impl Chats {
    /// Seconds between two questions of one user in the mean, if there are such times.
    fn gap(&self) -> Option<f64> {
        match self.pace {
            Pace::AsAnswered { .. } => None,
            Pace::Timed {
                per_second,
                singles,
                ..
            } => Some(self.users as f64 / (per_second * (1.0 - singles.share))),
        }
    }

    /// Tokens of a prompt, if answers have their full length.
    #[must_use]
    pub fn prompt_tokens(&self, prompt: Prompt) -> usize {
        match prompt {
            Prompt::Single { tokens, .. } => tokens,
            Prompt::Question { round, .. } => {
                let grown = round * (self.question_tokens + self.answer_tokens);
                self.system_tokens + self.history_tokens + grown + self.question_tokens
            }
        }
    }

    /// Names of the prompt's full blocks of `block_tokens` tokens: equal names, equal prefixes.
    #[must_use]
    pub fn blocks(&self, prompt: Prompt, block_tokens: usize) -> Vec<u64> {
        let shared = self.system_tokens / block_tokens;
        let count = self.prompt_tokens(prompt) / block_tokens;
        let name = |index: usize| match prompt {
            Prompt::Question { .. } if index < shared => index as u64,
            Prompt::Question { session, .. } => ((session + 1) << 24) | index as u64,
            Prompt::Single { number, .. } => SINGLE | (number << 24) | index as u64,
        };
        (0..count).map(name).collect()
    }
}

/// Distinguishes the names of single prompts from those of sessions.
const SINGLE: u64 = 1 << 62;

#[cfg(test)]
mod tests;
