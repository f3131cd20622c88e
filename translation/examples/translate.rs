//! Translates standard input: `translate messages-request < body.json`.
//!
//! For trying the translation against others' implementations.

use std::io::{Read, Write, stdin, stdout};

use hermes_translation::{
    chat_client::{self, ChatAnswerTerms, ChunkStream, LateSystem, MessagesTerms},
    messages_client::{self, ChatDialect, ChatTerms, EventStream, MessagesAnswerTerms},
};

const CHAT_ANSWER: ChatAnswerTerms<'_> = ChatAnswerTerms {
    id: "request-1",
    model: None,
    created: 1_700_000_000,
    include_usage: true,
};

const MESSAGES_ANSWER: MessagesAnswerTerms<'_> = MessagesAnswerTerms {
    id: "request-1",
    model: None,
    omit_thinking: false,
};

fn main() {
    let mut body = Vec::new();
    stdin().read_to_end(&mut body).expect("standard input");
    let kind = std::env::args().nth(1).unwrap_or_default();
    let made = match &*kind {
        "chat-request" => {
            let terms = MessagesTerms {
                model: None,
                max_tokens: 4_096,
                late_system: LateSystem::InPlace,
            };
            let made = chat_client::translate_request(&body, &terms);
            made.map_or_else(|refusal| refusal.for_chat(), |made| made.body)
        }
        "messages-request" | "messages-request-openai" => {
            let dialect = match kind.ends_with("openai") {
                true => ChatDialect::OpenAi,
                false => ChatDialect::Engine,
            };
            let terms = ChatTerms {
                model: None,
                dialect,
            };
            let made = messages_client::translate_request(&body, &terms);
            made.map_or_else(|refusal| refusal.for_messages(), |made| made.body)
        }
        "chat-answer" => {
            let made = chat_client::translate_answer(&body, &CHAT_ANSWER);
            made.map_or_else(|fault| fault.for_chat(), |made| made.body)
        }
        "messages-answer" => {
            let made = messages_client::translate_answer(&body, &MESSAGES_ANSWER);
            made.map_or_else(|fault| fault.for_messages(), |made| made.body)
        }
        "chat-stream" => {
            let mut out = Vec::new();
            let mut stream = ChunkStream::new(&CHAT_ANSWER);
            stream.push(&body, &mut out);
            stream.finish(&mut out);
            out
        }
        "messages-stream" => {
            let mut out = Vec::new();
            let mut stream = EventStream::new(&MESSAGES_ANSWER);
            stream.push(&body, &mut out);
            stream.finish(&mut out);
            out
        }
        _ => panic!(
            "give chat-request, messages-request, chat-answer, messages-answer, chat-stream or messages-stream"
        ),
    };
    stdout().write_all(&made).expect("standard output");
}
