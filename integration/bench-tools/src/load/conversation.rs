//! Multi-turn chats: each user sends the next turn after the answer to the last one, with the whole
//! history in front.
//!
//! The shape of the `multi-round-qa` benchmark of the vLLM production stack: all users share a
//! system prompt, each has a history of their own, and a history grows by a question and an answer
//! a round. What a router gains by remembering who was served where shows in the hit rate.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::exchange::Outcome;
use super::report::Report;
use super::run::Run;
use super::synthesis;
use super::workload::{Message, Shape};

/// The shape of a multi-turn run.
#[derive(Clone, Copy, Debug)]
pub struct Conversations {
    /// People chatting at the same time.
    pub users: usize,
    /// Turns of each.
    pub rounds: usize,
    /// Tokens of the system prompt that all share.
    pub system_tokens: usize,
    /// Tokens of a history that each user starts with.
    pub history_tokens: usize,
    /// Tokens of each question.
    pub question_tokens: usize,
    /// Tokens of each answer, at most.
    pub answer_tokens: usize,
    /// Between an answer and the next question of the same user.
    pub think: Duration,
    /// Between the first turns of one user and the next.
    pub stagger: Duration,
    /// Decides every text.
    pub seed: u64,
}

impl Conversations {
    /// Runs all conversations through `run`.
    pub async fn drive(self, run: Run, shape: Shape) -> Report {
        run.users(self.users, |run, user| self.talk(run, shape.clone(), user))
            .await
    }

    /// One user's conversation; ends early when a turn fails, as there is no answer to go on from.
    async fn talk(self, run: Run, shape: Shape, user: usize) {
        let mut history = self.opening(user);
        let stagger = self
            .stagger
            .saturating_mul(u32::try_from(user).unwrap_or(u32::MAX));
        let mut intended = run.began() + stagger;
        for round in 0..self.rounds {
            sleep_until(intended).await;
            if !run.has_time() {
                return;
            }
            history.push(Message {
                role: "user",
                content: self.question(user, round),
            });
            let mut call = shape.chat(&history, self.answer_tokens);
            call.keep_text = true;
            let exchange = run.one(call, intended).await;
            if exchange.outcome != Outcome::Ok {
                return;
            }
            let content = exchange.text.unwrap_or_default();
            history.push(Message {
                role: "assistant",
                content,
            });
            intended = Instant::now() + self.think;
        }
    }

    fn opening(&self, user: usize) -> Vec<Message> {
        let mut messages = vec![Message {
            role: "system",
            content: text(self.seed, 0, self.system_tokens),
        }];
        if self.history_tokens > 0 {
            let content = text(self.seed, user as u64 + 1, self.history_tokens);
            messages.push(Message {
                role: "user",
                content,
            });
        }
        messages
    }

    fn question(&self, user: usize, round: usize) -> String {
        text(
            self.seed,
            ((user as u64 + 1) << 32) | (round as u64 + 1),
            self.question_tokens,
        )
    }
}

fn text(seed: u64, id: u64, tokens: usize) -> String {
    let mut text = String::with_capacity(tokens * synthesis::BYTES_PER_TOKEN);
    synthesis::push_block(&mut text, seed.rotate_left(48) ^ id, tokens);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONVERSATIONS: Conversations = Conversations {
        users: 3,
        rounds: 2,
        system_tokens: 100,
        history_tokens: 50,
        question_tokens: 20,
        answer_tokens: 10,
        think: Duration::ZERO,
        stagger: Duration::ZERO,
        seed: 5,
    };

    #[test]
    fn users_share_the_system_prompt_and_nothing_else() {
        let (first, second) = (CONVERSATIONS.opening(0), CONVERSATIONS.opening(1));
        assert_eq!(first[0].content, second[0].content);
        assert_ne!(first[1].content, second[1].content);
        assert_ne!(CONVERSATIONS.question(0, 0), CONVERSATIONS.question(0, 1));
        assert_ne!(CONVERSATIONS.question(0, 0), CONVERSATIONS.question(1, 0));
    }
}
