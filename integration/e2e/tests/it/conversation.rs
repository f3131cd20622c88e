//! Conversations of several users; each turn repeats all earlier ones.

use hermes_bench::fleet::Fleet;
use serde_json::{Value, json};

use crate::client::{ask, json_of, send};

/// The request of a user after `rounds` earlier rounds.
pub(crate) fn turn(user: usize, rounds: usize) -> Value {
    let text = |round: usize| {
        format!(
            "user {user} asks question number {round}: {}",
            "why does it rain? ".repeat(20)
        )
    };
    let messages: Vec<Value> = (0..=rounds)
        .map(|round| json!({"role": "user", "content": text(round)}))
        .collect();
    json!({"model": "sim", "max_tokens": 1, "messages": messages})
}

/// Sends `rounds` turns of `users` users. Returns prompt tokens, and how many of them the engines
/// had cached.
pub(crate) async fn talk(fleet: &Fleet, users: usize, rounds: usize) -> (u64, u64) {
    let (mut prompt, mut cached) = (0, 0);
    for round in 0..rounds {
        for user in 0..users {
            let (status, body) = json_of(send(ask(&fleet.url(), &turn(user, round))).await).await;
            assert_eq!(status, 200);
            prompt += body["usage"]["prompt_tokens"].as_u64().expect("a count");
            cached += body["usage"]["prompt_tokens_details"]["cached_tokens"]
                .as_u64()
                .unwrap_or(0);
        }
    }
    (prompt, cached)
}
