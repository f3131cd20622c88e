//! A request to the Responses API as the conversation that an engine makes of it.
//!
//! Instructions become the system's message, the input the user's; items of an input become
//! messages, and what follows an assistant's message and belongs to it (calls of tools, reasoning)
//! is joined to it, as in vLLM. Items that need the engine's own history, or its own tools, are
//! left to it.

use bytes::Bytes;
use hermes_proto::v1::PromptText;
use serde_json::{Map, Value, json};

use super::{Failure, chat::Chat};

/// The conversation that `text` asks for.
///
/// # Errors
/// As [`super::wanted::TokenizeInput::read`].
pub(super) fn read(text: &PromptText) -> Result<Chat, Failure> {
    let mut messages = Vec::new();
    if !text.system.is_empty() {
        let instructions: Option<String> = parse(&text.system)?;
        let instructions = instructions.filter(|text| !text.is_empty());
        messages.extend(instructions.map(|text| json!({"role": "system", "content": text})));
    }
    match parse(&text.json)? {
        Value::String(input) => messages.push(json!({"role": "user", "content": input})),
        Value::Array(items) => items
            .into_iter()
            .try_for_each(|item| add(&mut messages, item))?,
        _ => return Err(Failure::Malformed),
    }
    let messages = serde_json::to_vec(&messages).map_err(|_| Failure::Malformed)?;
    let tools = if text.tools.is_empty() {
        None
    } else {
        tools(&text.tools)?
    };
    Ok(Chat {
        tools,
        ..Chat::of(text, messages.into())
    })
}

fn parse<'a, T: serde::Deserialize<'a>>(raw: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(raw).map_err(|_| Failure::Malformed)
}

fn add(messages: &mut Vec<Value>, item: Value) -> Result<(), Failure> {
    let Value::Object(item) = item else {
        return Err(Failure::Malformed);
    };
    // A partial answer that is to be continued.
    if item
        .get("status")
        .and_then(Value::as_str)
        .is_some_and(|status| status != "completed")
    {
        return Err(Failure::Unsupported);
    }
    match item
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or("message")
    {
        "message" if item.get("role").and_then(Value::as_str) == Some("assistant") => {
            join(
                messages,
                "content",
                first_text(item.get("content")).unwrap_or_default().into(),
            );
        }
        "message" if item.contains_key("role") => messages.push(Value::Object(item)),
        "function_call_output" => {
            let (output, id) = (item.get("output"), item.get("call_id"));
            messages.push(json!({"role": "tool", "content": output, "tool_call_id": id}));
        }
        "function_call" => add_call(messages, &item),
        "reasoning" if item.get("encrypted_content").is_none_or(Value::is_null) => {
            let text = first_text(item.get("content")).or_else(|| first_text(item.get("summary")));
            join(messages, "reasoning", text.unwrap_or_default().into());
        }
        _ => return Err(Failure::Unsupported),
    }
    Ok(())
}

/// Sets `key` of the assistant's message that is last; of a new one when there is none, or it has
/// one already.
fn join(messages: &mut Vec<Value>, key: &str, value: Value) {
    if let Some(last) = assistant(messages).filter(|last| last.get(key).is_none_or(Value::is_null))
    {
        last.insert(key.to_owned(), value);
        return;
    }
    messages.push(json!({"role": "assistant", key: value}));
}

fn add_call(messages: &mut Vec<Value>, item: &Map<String, Value>) {
    let function = json!({"name": item.get("name"), "arguments": item.get("arguments")});
    let call = json!({"id": item.get("call_id"), "function": function, "type": "function"});
    if let Some(calls) =
        assistant(messages).and_then(|last| last.get_mut("tool_calls")?.as_array_mut())
    {
        calls.push(call);
        return;
    }
    join(messages, "tool_calls", json!([call]));
}

fn assistant(messages: &mut [Value]) -> Option<&mut Map<String, Value>> {
    let last = messages.last_mut()?.as_object_mut()?;
    (last.get("role").and_then(Value::as_str) == Some("assistant")).then_some(last)
}

/// The text of a content: itself, or the first of its parts.
fn first_text(content: Option<&Value>) -> Option<String> {
    match content? {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => match parts.first()? {
            Value::String(text) => Some(text.clone()),
            part => Some(part.get("text")?.as_str()?.to_owned()),
        },
        _ => None,
    }
}

/// The tools in the form of chats. Those that are no functions run inside the engine.
fn tools(raw: &[u8]) -> Result<Option<Bytes>, Failure> {
    // Raw values: the order of their keys reaches the prompt.
    let tools: Vec<&serde_json::value::RawValue> = parse(raw)?;
    let mut out = String::from("[");
    for tool in &tools {
        let kind: Map<String, Value> = parse(tool.get().as_bytes())?;
        if kind.get("type").and_then(Value::as_str) != Some("function") {
            return Err(Failure::Unsupported);
        }
        if out.len() > 1 {
            out.push(',');
        }
        out.extend([r#"{"type":"function","function":"#, tool.get(), "}"]);
    }
    out.push(']');
    Ok((!tools.is_empty()).then(|| out.into()))
}

#[cfg(test)]
mod tests {
    use hermes_proto::v1::prompt_text::Api;
    use proptest::prelude::*;

    use super::*;

    fn chat(input: &Value, instructions: &str, tools: &str) -> Result<Chat, Failure> {
        read(&PromptText {
            api: Api::Responses.into(),
            json: input.to_string().into(),
            system: Bytes::copy_from_slice(instructions.as_bytes()),
            tools: Bytes::copy_from_slice(tools.as_bytes()),
            ..PromptText::default()
        })
    }

    fn messages(input: &Value) -> Value {
        serde_json::from_slice(&chat(input, "", "").expect("a conversation").messages)
            .expect("JSON")
    }

    #[test]
    fn instructions_and_input_are_the_first_messages() {
        let chat = chat(&json!("hi"), r#""be kind""#, "").expect("a conversation");
        let expected =
            json!([{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}]);
        assert_eq!(
            serde_json::from_slice::<Value>(&chat.messages).expect("JSON"),
            expected
        );
        assert_eq!(
            (chat.generates, chat.continues, chat.special),
            (true, false, false)
        );
    }

    #[test]
    fn items_that_belong_to_one_answer_are_one_message() {
        let input = json!([
            {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look"}]},
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "sun"},
        ]);
        let call = |id: &str, name: &str| json!({"id": id, "function": {"name": name, "arguments": "{}"}, "type": "function"});
        let expected = json!([
            {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
            {"role": "assistant", "reasoning": "hm", "content": "I look", "tool_calls": [call("a", "f"), call("b", "g")]},
            {"role": "tool", "content": "sun", "tool_call_id": "a"},
        ]);
        assert_eq!(messages(&input), expected);
    }

    #[test]
    fn what_needs_the_engine_is_left_to_it() {
        for item in [
            json!({"type": "item_reference", "id": "x"}),
            json!({"role": "assistant", "content": "", "status": "incomplete"}),
        ] {
            assert_eq!(
                chat(&json!([item]), "", "").err(),
                Some(Failure::Unsupported),
                "{item}"
            );
        }
        assert_eq!(
            chat(&json!("x"), "", r#"[{"type":"web_search"}]"#).err(),
            Some(Failure::Unsupported)
        );
    }

    #[test]
    fn tools_keep_their_bytes() {
        let tool = r#"{"type":"function","name":"f","parameters":{"z":1,"a":2}}"#;
        let tools = chat(&json!("x"), "", &format!("[{tool}]"))
            .expect("a conversation")
            .tools
            .expect("tools");
        assert_eq!(
            tools,
            format!(r#"[{{"type":"function","function":{tool}}}]"#)
        );
        assert_eq!(
            chat(&json!("x"), "", "[]").expect("a conversation").tools,
            None
        );
    }

    proptest! {
        #[test]
        fn any_items_are_read_or_refused(
            items in proptest::collection::vec(
                (prop_oneof![Just("message"), Just("reasoning"), Just("function_call"), Just("x")],
                 prop_oneof![Just(json!("assistant")), Just(json!("user")), Just(json!(7))],
                 prop_oneof![Just(json!("t")), Just(json!([])), Just(json!([{"text": "t"}])), Just(json!({})), Just(json!(null))]),
                0..6,
            ),
        ) {
            let items: Vec<Value> =
                items.into_iter().map(|(kind, role, content)| json!({"type": kind, "role": role, "content": content})).collect();
            let _ = chat(&json!(items), "", "");
        }
    }
}
