//! All requests of the chats in order of time, for those who do not wait for answers.

use std::iter::Peekable;
use std::time::Duration;

use super::{Chats, Prompt, SinglePrompts, Turns};

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChatRequest {
    /// When it is sent, since the beginning.
    pub at: Duration,
    /// What is sent.
    pub prompt: Prompt,
}

/// See [`Chats::requests`].
#[derive(Debug)]
pub struct ChatRequests {
    users: Vec<Peekable<Turns>>,
    singles: Option<Peekable<SinglePrompts>>,
}

impl Chats {
    /// The requests of all users and the single prompts, in order of time; without end if the pace
    /// has none. Of equal times, users come in their order, before a single prompt.
    #[must_use]
    pub fn requests(&self) -> ChatRequests {
        ChatRequests {
            users: (0..self.users)
                .map(|user| self.turns(user).peekable())
                .collect(),
            singles: self.single_prompts().map(Iterator::peekable),
        }
    }
}

impl Iterator for ChatRequests {
    type Item = ChatRequest;

    fn next(&mut self) -> Option<ChatRequest> {
        let user = self
            .users
            .iter_mut()
            .enumerate()
            .filter_map(|(user, turns)| Some((turns.peek()?.due, user)))
            .min();
        let single = self
            .singles
            .as_mut()
            .and_then(|singles| Some(singles.peek()?.0));
        let user_is_next = match (user, single) {
            (Some((due, _)), Some(single)) => due <= single,
            (user, _) => user.is_some(),
        };
        if user_is_next {
            let turn = self.users[user?.1].next()?;
            return Some(ChatRequest {
                at: turn.due,
                prompt: turn.prompt(),
            });
        }
        let (at, prompt) = self.singles.as_mut()?.next()?;
        Some(ChatRequest { at, prompt })
    }
}
