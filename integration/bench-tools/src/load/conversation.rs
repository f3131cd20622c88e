//! Sends [`Chats`]: each user asks the next question after the answer to the last one, with the
//! whole history in front, and single prompts come in between.
//!
//! The answers in a history are those that the server gave. What a router gains by remembering who
//! was served where shows in the hit rate. Time to first token counts from when a question was due,
//! or from the answer before it, whichever is later: what a user waits for.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::exchange::Outcome;
use super::report::Report;
use super::run::Run;
use super::synthesis;
use super::workload::{Message, Shape};
use crate::chats::{Chats, Pace, Prompt, Turn};

/// Runs the chats through `run`, until they end or it does.
pub async fn drive(chats: Chats, run: Run, shape: Shape) -> Report {
    let singles = usize::from(chats.single_prompts().is_some());
    run.users(chats.users + singles, |run, number| {
        let shape = shape.clone();
        async move {
            if number < chats.users {
                talk(chats, run, shape, number).await;
            } else {
                interject(chats, run, shape).await;
            }
        }
    })
    .await
}

/// One user's sessions. One in which a question fails goes no further, as there is no answer to go
/// on from.
async fn talk(chats: Chats, run: Run, shape: Shape, user: usize) {
    let think = match chats.pace {
        Pace::AsAnswered { think, .. } => think,
        Pace::Timed { .. } => Duration::ZERO,
    };
    let (mut history, mut free) = (Vec::new(), run.began());
    let mut failed = None;
    for turn in chats.turns(user) {
        let Turn { session, round, .. } = turn;
        if failed == Some(session) {
            continue;
        }
        let intended = due(&run, turn.due).max(free);
        if !run.reaches(intended).await {
            return;
        }
        if round == 0 {
            history = opening(&chats, session);
        }
        history.push(message("user", question(&chats, session, round)));
        let mut call = shape.chat(&history, chats.answer_tokens);
        call.keep_text = true;
        let exchange = run.one(call, intended).await;
        free = Instant::now() + think;
        if exchange.outcome != Outcome::Ok {
            failed = Some(session);
            continue;
        }
        history.push(message("assistant", exchange.text.unwrap_or_default()));
    }
}

/// The single prompts, each at its time whatever became of those before.
async fn interject(chats: Chats, run: Run, shape: Shape) {
    let mut tasks = JoinSet::new();
    for (at, prompt) in chats.single_prompts().into_iter().flatten() {
        let Prompt::Single { number, tokens } = prompt else {
            continue;
        };
        let intended = due(&run, at);
        if !run.reaches(intended).await {
            break;
        }
        let content = text(chats.seed, SINGLE | number, tokens);
        let call = shape.chat(&[message("user", content)], chats.answer_tokens);
        let run = run.clone();
        tasks.spawn(async move {
            run.one(call, intended).await;
        });
        while tasks.try_join_next().is_some() {}
        if tasks.len() >= MAX_SINGLES {
            tasks.join_next().await;
        }
    }
    while tasks.join_next().await.is_some() {}
}

fn due(run: &Run, at: Duration) -> Instant {
    let began = run.began();
    began.checked_add(at).unwrap_or(began + super::run::LONGEST)
}

fn opening(chats: &Chats, session: u64) -> Vec<Message> {
    let mut messages = vec![message("system", text(chats.seed, 0, chats.system_tokens))];
    if chats.history_tokens > 0 {
        let content = text(chats.seed, session + 1, chats.history_tokens);
        messages.push(message("user", content));
    }
    messages
}

fn question(chats: &Chats, session: u64, round: usize) -> String {
    let id = ((session + 1) << 32) | (round as u64 + 1);
    text(chats.seed, id, chats.question_tokens)
}

fn message(role: &'static str, content: String) -> Message {
    Message { role, content }
}

/// Most single prompts in flight; one that is due beyond that waits, and its wait counts as
/// latency.
const MAX_SINGLES: usize = 1_024;

/// Distinguishes the texts of single prompts from those of sessions.
const SINGLE: u64 = 1 << 63;

fn text(seed: u64, id: u64, tokens: usize) -> String {
    let mut text = String::with_capacity(tokens * synthesis::BYTES_PER_TOKEN);
    synthesis::push_block(&mut text, seed.rotate_left(48) ^ id, tokens);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATS: Chats = Chats {
        users: 3,
        rounds: 2,
        system_tokens: 100,
        history_tokens: 50,
        question_tokens: 20,
        answer_tokens: 10,
        pace: Pace::AsAnswered {
            think: Duration::ZERO,
            stagger: Duration::ZERO,
        },
        seed: 5,
    };

    #[test]
    fn users_share_the_system_prompt_and_nothing_else() {
        let (first, second) = (opening(&CHATS, 0), opening(&CHATS, 1));
        assert_eq!(first[0].content, second[0].content);
        assert_ne!(first[1].content, second[1].content);
        assert_ne!(question(&CHATS, 0, 0), question(&CHATS, 0, 1));
        assert_ne!(question(&CHATS, 0, 0), question(&CHATS, 1, 0));
    }
}
