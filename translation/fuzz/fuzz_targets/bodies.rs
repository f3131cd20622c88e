//! Any body is translated into JSON or refused, without a panic.
//!
//! Run with `translation/fuzz/run bodies`.

#![no_main]

use hermes_translation::{
    chat_client::{self, ChatAnswerTerms, LateSystem, MessagesTerms},
    chat_error,
    messages_client::{self, ChatDialect, ChatTerms, MessagesAnswerTerms},
    messages_error,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    for late_system in [LateSystem::InPlace, LateSystem::Hoisted] {
        let terms = MessagesTerms {
            model: None,
            max_tokens: 64,
            late_system,
        };
        if let Ok(made) = chat_client::translate_request(body, &terms) {
            assert_json(&made.body);
        }
    }
    for dialect in [ChatDialect::Engine, ChatDialect::OpenAi] {
        let terms = ChatTerms {
            model: None,
            dialect,
        };
        if let Ok(made) = messages_client::translate_request(body, &terms) {
            assert_json(&made.body);
        }
    }
    let terms = ChatAnswerTerms {
        id: "request-1",
        model: None,
        created: 1,
        include_usage: true,
    };
    if let Ok(made) = chat_client::translate_answer(body, &terms) {
        assert_json(&made.body);
    }
    let terms = MessagesAnswerTerms {
        id: "request-1",
        model: None,
        omit_thinking: false,
    };
    if let Ok(made) = messages_client::translate_answer(body, &terms) {
        assert_json(&made.body);
    }
    assert_json(&chat_error(500, body).1);
    assert_json(&messages_error(500, body).1);
});

fn assert_json(body: &[u8]) {
    let read: Result<&serde_json::value::RawValue, _> = serde_json::from_slice(body);
    read.expect("JSON");
}
