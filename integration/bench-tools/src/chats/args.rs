//! The chats, as a command line.

use std::time::Duration;

use clap::Args;

use super::{Chats, Pace, Pauses, Singles};

/// Users who chat, and single prompts between them.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Chats")]
pub struct ChatArgs {
    /// Users chatting at the same time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = count)]
    pub users: usize,
    /// Questions of each session
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = count)]
    pub rounds: usize,
    /// Tokens of the system prompt that all users share
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = tokens)]
    pub system_tokens: usize,
    /// Tokens of the history that each session begins with
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = tokens)]
    pub history_tokens: usize,
    /// Tokens of each question
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = tokens)]
    pub question_tokens: usize,
    /// With --rate: how the times between two questions of a user vary
    #[arg(long, value_enum, default_value_t = Pauses::Even)]
    pub pauses: Pauses,
    /// With --rate: the part of requests that are prompts of their own, which never come again
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub singles: f64,
    /// Tokens of such a prompt in the mean
    #[arg(long, value_name = "N", default_value_t = 8_000, value_parser = tokens)]
    pub single_tokens: usize,
}

impl ChatArgs {
    /// These chats at a rate of `per_second` requests.
    #[must_use]
    pub fn timed(&self, per_second: f64, answer_tokens: usize, seed: u64) -> Chats {
        let singles = Singles {
            share: self.singles,
            tokens: self.single_tokens,
        };
        let pauses = self.pauses;
        let pace = Pace::Timed {
            per_second,
            pauses,
            singles,
        };
        self.chats(pace, answer_tokens, seed)
    }

    /// One session of each user, who go on as soon as they have read an answer.
    #[must_use]
    pub fn as_answered(
        &self,
        think: Duration,
        stagger: Duration,
        answer_tokens: usize,
        seed: u64,
    ) -> Chats {
        self.chats(Pace::AsAnswered { think, stagger }, answer_tokens, seed)
    }

    fn chats(&self, pace: Pace, answer_tokens: usize, seed: u64) -> Chats {
        Chats {
            users: self.users,
            rounds: self.rounds,
            system_tokens: self.system_tokens,
            history_tokens: self.history_tokens,
            question_tokens: self.question_tokens,
            answer_tokens,
            pace,
            seed,
        }
    }
}

/// Most users, and most rounds of a session: each user costs a task, and a prompt grows by rounds.
const MAX_COUNT: usize = 100_000;

/// Most tokens of a part of a prompt: the longest contexts there are.
const MAX_TOKENS: usize = 1 << 20;

fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok();
    count
        .filter(|count| (1..=MAX_COUNT).contains(count))
        .ok_or_else(|| format!("expected a number from 1 to {MAX_COUNT}"))
}

fn tokens(text: &str) -> Result<usize, String> {
    let tokens = text.parse().ok();
    tokens
        .filter(|tokens| *tokens <= MAX_TOKENS)
        .ok_or_else(|| format!("expected a number from 0 to {MAX_TOKENS}"))
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok();
    share
        .filter(|share| (0.0..=0.99).contains(share))
        .ok_or_else(|| "expected a share from 0 to 0.99".to_owned())
}
