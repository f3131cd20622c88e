use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(json: &serde_json::Value, format: ContentFormat) -> Result<String, Failure> {
    let raw = super::json(json.to_string().as_bytes())?;
    Ok(messages(&raw, format)?
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n"))
}

fn text(json: &serde_json::Value) -> Result<String, Failure> {
    read(json, ContentFormat::Text)
}

#[test]
fn content_becomes_what_the_template_was_written_for() {
    let parts = json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": ""}, "b"]}]);
    assert_eq!(
        text(&parts).expect("text"),
        r"{'role': 'user', 'content': 'a\nb'}"
    );
    let plain = json!([{"role": "user", "content": "a"}]);
    assert_eq!(
        read(&plain, ContentFormat::Parts).expect("parts"),
        "{'role': 'user', 'content': [{'type': 'text', 'text': 'a'}]}"
    );
    let empty = json!([{"role": "user", "content": null}]);
    assert_eq!(
        text(&empty).expect("text"),
        "{'role': 'user', 'content': ''}"
    );
    let answer =
        json!([{"role": "tool", "content": [{"type": "text", "text": "a"}], "tool_call_id": "c"}]);
    assert_eq!(
        read(&answer, ContentFormat::Parts).expect("text"),
        "{'role': 'tool', 'content': 'a', 'tool_call_id': 'c'}"
    );
}

#[test]
fn calls_of_tools_have_their_arguments_as_objects() {
    let call = |arguments: &str| {
        let arguments = json!(arguments);
        let call = format!(r#"{{"id":"c","function":{{"name":"f","arguments":{arguments}}}}}"#);
        let raw =
            super::json(format!(r#"[{{"role":"assistant","tool_calls":[{call}]}}]"#).as_bytes())
                .expect("JSON");
        messages(&raw, ContentFormat::Text).expect("messages")[0].to_string()
    };
    let expected = "{'role': 'assistant', 'content': '', 'tool_calls': [{'id': 'c', 'function': {'name': 'f', 'arguments': {'b': 1, 'a': 2}}}]}";
    assert_eq!(call(r#"{"b":1,"a":2}"#), expected);
    for broken in ["", "[]", "{", "7"] {
        assert!(call(broken).contains("'arguments': {}"), "{broken}");
    }
    let none = json!([{"role": "assistant", "content": "a", "tool_calls": []}]);
    assert_eq!(
        text(&none).expect("text"),
        "{'role': 'assistant', 'content': 'a'}"
    );
}

#[test]
fn reasoning_is_known_by_all_of_its_names() {
    for name in ["reasoning", "reasoning_content"] {
        let message = json!([{"role": "assistant", "content": "a", name: "r"}]);
        let expected = "{'role': 'assistant', 'content': 'a', 'reasoning': 'r', 'reasoning_content': 'r', 'thinking': 'r'}";
        assert_eq!(text(&message).expect("text"), expected);
    }
}

#[test]
fn tools_have_every_field_and_keep_their_order() {
    let raw = br#"[{"function":{"parameters":{"z":1,"a":2},"name":"f","x":1},"y":2},{"type":"function","function":{"name":"g","strict":true}}]"#;
    let tools = tools(&json(raw).expect("JSON")).expect("tools");
    assert_eq!(
        tools.to_string(),
        "[{'type': 'function', 'function': {'name': 'f', 'description': None, 'parameters': {'z': 1, 'a': 2}}}, \
         {'type': 'function', 'function': {'name': 'g', 'description': None, 'parameters': None, 'strict': True}}]"
    );
}

#[test]
fn what_only_an_engine_can_read_is_left_to_it_and_what_it_would_refuse_is_refused() {
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]);
    assert_eq!(text(&image), Err(Failure::Unsupported));
    for broken in [
        json!({}),
        json!([1]),
        json!([{"role": 1}]),
        json!([{"content": "a"}]),
        json!([{"role": "user", "content": 7}]),
    ] {
        assert_eq!(text(&broken), Err(Failure::Malformed), "{broken}");
    }
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i32>().prop_map(|n| json!(n)),
        "\\PC{0,8}".prop_map(|s| json!(s)),
        Just(json!("assistant")),
        Just(json!("text")),
        Just(json!("function")),
    ];
    let key = prop_oneof![
        Just("role"),
        Just("content"),
        Just("tool_calls"),
        Just("function"),
        Just("arguments"),
        Just("name"),
        Just("type"),
        Just("text"),
        Just("reasoning"),
    ];
    leaf.prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(|items| json!(items)),
            proptest::collection::btree_map(key.clone(), inner, 0..5)
                .prop_map(|fields| json!(fields)),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_read_or_refused(value in any_json()) {
        let raw = json(value.to_string().as_bytes()).expect("JSON");
        for format in [ContentFormat::Text, ContentFormat::Parts] {
            let _ = messages(&raw, format);
        }
        let _ = tools(&raw);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = json(&bytes);
    }
}
