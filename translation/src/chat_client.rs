//! A client that speaks OpenAI's chat completions, to a server of Anthropic's messages.
//!
//! | | client | | server |
//! |---|---|---|---|
//! | request | chat completion | [`translate_request`] ▶ | message |
//! | answer | chat completion | ◀ [`translate_answer`] | message |
//! | stream | chunks | ◀ [`ChunkStream`] | events |

mod answer;
mod chunk_stream;
mod chunk_writer;
mod content;
mod conversation;
mod messages_answer;
mod messages_body;
mod request;
mod terms;
mod tools;

pub use self::{
    answer::{ChatAnswerTerms, TranslatedChat, translate_answer},
    chunk_stream::ChunkStream,
    request::{ChatRequestForMessages, translate_request},
    terms::{LateSystem, MessagesTerms},
};
