//! A client that speaks Anthropic's messages, to a server of OpenAI's chat completions.
//!
//! | | client | | server |
//! |---|---|---|---|
//! | request | message | [`translate_request`] ▶ | chat completion |
//! | answer | message | ◀ [`translate_answer`] | chat completion |
//! | stream | events | ◀ [`EventStream`] | chunks |

mod answer;
mod block_writer;
mod blocks;
mod call_fragments;
mod chat_answer;
mod chat_body;
mod conversation;
mod event_stream;
mod held_texts;
mod json_progress;
mod request;
mod stop_reason;
mod terms;
mod tools;

pub use self::{
    answer::{MessagesAnswerTerms, TranslatedMessage, translate_answer},
    event_stream::EventStream,
    request::{MessagesRequestForChat, translate_request},
    terms::{ChatDialect, ChatTerms},
};
