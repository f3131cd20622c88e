//! Translation between OpenAI's chat completions and Anthropic's messages, as pure functions.
//!
//! Requests and whole answers are functions from bytes to bytes. Streams are state machines that
//! take the pieces of one and write the pieces of the other, and hold back at most what the other
//! API cannot have yet. Ids, names and times are arguments.
//!
//! Invariants: a field of a request is translated, left out because it changes no answer, or
//! refused by its name; what a model said is never lost; texts, numbers and objects keep the bytes
//! in which they were written; where a stream is cut changes nothing. `docs/translation.md` has
//! each field.

mod answer_names;
mod api_error;
mod event_reader;
mod json_string;
mod object_members;
mod place;
mod schema;
mod stream_writer;
mod untranslatable_answer;
mod untranslatable_request;
mod usage;

pub mod chat_client;
pub mod messages_client;

pub use self::{
    api_error::{chat_error, messages_error},
    untranslatable_answer::UntranslatableAnswer,
    untranslatable_request::UntranslatableRequest,
    usage::AnswerUsage,
};

/// The JSON of a body that is about as long as this.
fn written(body: &impl serde::Serialize, length: usize) -> Vec<u8> {
    let mut json = Vec::with_capacity(length);
    // Nothing in a body can fail to be written: its maps have names, and its numbers are as they
    // were read.
    let _ = serde_json::to_writer(&mut json, body);
    json
}
