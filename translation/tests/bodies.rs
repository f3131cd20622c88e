//! What holds of all bodies: nothing panics, what comes out is JSON, and what both APIs have comes
//! back as it was.

use hermes_translation::{
    chat_client::{self, ChatAnswerTerms, LateSystem, MessagesTerms},
    messages_client::{self, ChatDialect, ChatTerms, MessagesAnswerTerms},
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const MESSAGES_TERMS: MessagesTerms<'_> = MessagesTerms {
    model: None,
    max_tokens: 64,
    late_system: LateSystem::InPlace,
};

const CHAT_TERMS: ChatTerms<'_> = ChatTerms {
    model: None,
    dialect: ChatDialect::Engine,
};

const CHAT_ANSWER: ChatAnswerTerms<'_> = ChatAnswerTerms {
    id: "request-1",
    model: None,
    created: 1,
    include_usage: false,
};

const MESSAGES_ANSWER: MessagesAnswerTerms<'_> = MessagesAnswerTerms {
    id: "request-1",
    model: None,
    omit_thinking: false,
};

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("a body that is JSON")
}

/// Any JSON, with names of both APIs in it.
fn any_json() -> impl Strategy<Value = Value> {
    let names = [
        "messages",
        "role",
        "content",
        "type",
        "text",
        "tools",
        "function",
        "name",
        "arguments",
        "input",
        "id",
        "image_url",
        "url",
        "source",
        "tool_calls",
        "tool_use_id",
        "system",
        "stop",
        "usage",
        "choices",
        "message",
    ];
    let words = [
        "user",
        "assistant",
        "tool",
        "text",
        "image",
        "tool_use",
        "tool_result",
        "function",
        "{}",
        "data:,",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
        prop::sample::select(words.to_vec()).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        let member = (prop::sample::select(names.to_vec()), inner.clone());
        let members = prop::collection::vec(member, 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            members.prop_map(|members| {
                let members = members
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value));
                Value::Object(members.collect::<Map<_, _>>())
            }),
        ]
    })
}

fn said() -> impl Strategy<Value = String> {
    "[a-zA-Z\u{e9}\u{1f600}\"\\\\\n ]{1,9}"
}

/// A conversation that both APIs have, in the words of messages: each turn is a user's or a call
/// with its result.
fn turns() -> impl Strategy<Value = Vec<Value>> {
    let asked = said().prop_map(|text| {
        vec![
            json!({"role": "user", "content": text}),
            json!({"role": "assistant", "content": "ok"}),
        ]
    });
    let called = (said(), said(), said(), any::<bool>()).prop_map(|(text, input, result, speaks)| {
        let call = json!({"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"b": input, "a": 1}});
        let mut blocks = vec![call];
        if speaks {
            blocks.insert(0, json!({"type": "text", "text": text}));
        }
        let result = json!({"type": "tool_result", "tool_use_id": "toolu_1", "content": result});
        let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}});
        vec![
            json!({"role": "user", "content": [{"type": "text", "text": text}, image]}),
            json!({"role": "assistant", "content": blocks}),
            json!({"role": "user", "content": [result]}),
            json!({"role": "assistant", "content": text}),
        ]
    });
    let turns = prop::collection::vec(prop_oneof![asked, called], 0..4);
    (turns, said()).prop_map(|(turns, last)| {
        let mut turns: Vec<Value> = turns.into_iter().flatten().collect();
        turns.push(json!({"role": "user", "content": last}));
        turns
    })
}

proptest! {
    #[test]
    fn any_json_is_translated_into_json_or_refused(body in any_json()) {
        let whole = json!({"model": "m", "max_tokens": 5, "messages": body});
        for body in [body.to_string(), whole.to_string()] {
            let body = body.as_bytes();
            if let Ok(made) = chat_client::translate_request(body, &MESSAGES_TERMS) {
                parsed(&made.body);
            }
            if let Ok(made) = messages_client::translate_request(body, &CHAT_TERMS) {
                parsed(&made.body);
            }
            if let Ok(made) = chat_client::translate_answer(body, &CHAT_ANSWER) {
                parsed(&made.body);
            }
            if let Ok(made) = messages_client::translate_answer(body, &MESSAGES_ANSWER) {
                parsed(&made.body);
            }
            parsed(&hermes_translation::chat_error(500, body).1);
            parsed(&hermes_translation::messages_error(500, body).1);
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
        prop_assert!(chat_client::translate_request(&body, &MESSAGES_TERMS).is_err());
        prop_assert!(messages_client::translate_request(&body, &CHAT_TERMS).is_err());
        prop_assert!(chat_client::translate_answer(&body, &CHAT_ANSWER).is_err());
        prop_assert!(messages_client::translate_answer(&body, &MESSAGES_ANSWER).is_err());
    }

    #[test]
    fn conversations_come_back_as_they_were(turns in turns(), system in prop::option::of(said())) {
        let tool = json!({"name": "look", "description": "d", "input_schema": {"type": "object"}, "strict": true});
        let mut body = json!({
            "model": "m", "max_tokens": 77, "messages": turns, "tools": [tool], "temperature": 0.25, "top_p": 0.5,
            "top_k": 3, "stop_sequences": ["a", "b"], "metadata": {"user_id": "u"}, "stream": false,
            "tool_choice": {"type": "tool", "name": "look"},
        });
        if let Some(system) = system {
            body["system"] = json!(system);
        }
        let there = messages_client::translate_request(body.to_string().as_bytes(), &CHAT_TERMS).expect("a chat");
        let back = chat_client::translate_request(&there.body, &MESSAGES_TERMS).expect("messages");
        prop_assert_eq!(parsed(&back.body), body);
    }
}
