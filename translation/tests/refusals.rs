//! What has no equivalent is refused by the name of its field.

use hermes_translation::{
    UntranslatableRequest,
    chat_client::{self, LateSystem, MessagesTerms},
    messages_client::{self, ChatDialect, ChatTerms},
};
use serde_json::{Value, json};

/// The field for which a chat request with these fields is refused.
fn refused_chat(fields: Value) -> String {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    chat(&with(body, fields))
        .expect_err("a refusal")
        .field()
        .to_owned()
}

fn chat(body: &Value) -> Result<Vec<u8>, UntranslatableRequest> {
    let terms = MessagesTerms {
        model: None,
        max_tokens: 64,
        late_system: LateSystem::InPlace,
    };
    let request = chat_client::translate_request(body.to_string().as_bytes(), &terms)?;
    Ok(request.body)
}

/// The field for which a message's request with these fields is refused.
fn refused_messages(dialect: ChatDialect, fields: Value) -> String {
    let message = json!({"role": "user", "content": "hi"});
    let body = json!({"model": "m", "max_tokens": 64, "messages": [message]});
    let refusal = messages(&with(body, fields), dialect).expect_err("a refusal");
    refusal.field().to_owned()
}

fn messages(body: &Value, dialect: ChatDialect) -> Result<Vec<u8>, UntranslatableRequest> {
    let terms = ChatTerms {
        model: None,
        dialect,
    };
    let request = messages_client::translate_request(body.to_string().as_bytes(), &terms)?;
    Ok(request.body)
}

fn with(mut body: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else {
        panic!("fields are an object");
    };
    body.as_object_mut().expect("an object").extend(fields);
    body
}

/// One message of a user with this part.
fn part(part: &Value) -> Value {
    json!({"messages": [{"role": "user", "content": [part]}]})
}

#[test]
fn fields_of_chats_that_messages_do_not_have_are_named() {
    let tool = |tool: Value| json!({"tools": [tool]});
    let cases = [
        (json!({"model": 7}), "model"),
        (json!({"n": 2}), "n"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"top_logprobs": 3}), "top_logprobs"),
        (json!({"logit_bias": {"1": 2}}), "logit_bias"),
        (json!({"seed": 1}), "seed"),
        (json!({"frequency_penalty": 0.5}), "frequency_penalty"),
        (json!({"temperature": 1.5}), "temperature"),
        (json!({"temperature": "1"}), "temperature"),
        (
            json!({"max_tokens": 1, "max_completion_tokens": 2}),
            "max_tokens",
        ),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"stop": ["a", " \n"]}), "stop[1]"),
        (json!({"stop": 1}), "stop"),
        (
            json!({"response_format": {"type": "json_object"}}),
            "response_format.type",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "n"}}}),
            "response_format.json_schema.schema",
        ),
        (json!({"reasoning_effort": "huge"}), "reasoning_effort"),
        (
            json!({"stream_options": {"include_obfuscation": true}}),
            "stream_options.include_obfuscation",
        ),
        (json!({"functions": []}), "functions"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"store": true}), "store"),
        (json!({"metadata": {"a": "b"}}), "metadata"),
        (json!({"service_tier": "flex"}), "service_tier"),
        (json!({"modalities": ["text", "audio"]}), "modalities"),
        (json!({"audio": {"voice": "alloy"}}), "audio"),
        (json!({"web_search_options": {}}), "web_search_options"),
        (json!({"verbosity": "low"}), "verbosity"),
        (json!({"user": "a", "safety_identifier": "b"}), "user"),
        (json!({"chat_template_kwargs": {}}), "chat_template_kwargs"),
        (
            tool(json!({"type": "custom", "custom": {"name": "n"}})),
            "tools[0].type",
        ),
        (
            tool(json!({"type": "function", "function": {"name": "n", "parameters": []}})),
            "tools[0].function.parameters",
        ),
        (
            tool(json!({"type": "function", "function": {"name": "n", "x": 1}})),
            "tools[0].function.x",
        ),
    ];
    for (fields, field) in cases {
        assert_eq!(refused_chat(fields.clone()), field, "{fields}");
    }
}

#[test]
fn parts_of_chats_that_messages_do_not_have_are_named() {
    let messages = |messages: Value| json!({"messages": messages});
    let call = |call: Value| messages(json!([{"role": "assistant", "tool_calls": [call]}]));
    let cases = [
        (messages(json!([])), "messages"),
        (
            messages(json!([{"role": "system", "content": "s"}])),
            "messages",
        ),
        (
            messages(json!([{"role": "function", "content": "x"}])),
            "messages[0].role",
        ),
        (
            messages(json!([{"role": "user", "name": "Ann", "content": "x"}])),
            "messages[0].name",
        ),
        (
            messages(json!([{"role": "tool", "content": "x"}])),
            "messages[0].tool_call_id",
        ),
        (
            messages(json!([{"role": "user", "content": 5}])),
            "messages[0].content",
        ),
        (
            part(&json!({"type": "input_audio", "input_audio": {}})),
            "messages[0].content[0].type",
        ),
        (
            part(&json!({"type": "image_url", "image_url": {"url": "x", "detail": "low"}})),
            "messages[0].content[0].image_url.detail",
        ),
        (
            part(&json!({"type": "image_url", "image_url": {"url": "data:image/png,raw"}})),
            "messages[0].content[0].image_url.url",
        ),
        (
            part(&json!({"type": "file", "file": {"file_id": "f"}})),
            "messages[0].content[0].file.file_data",
        ),
        (
            part(&json!({"type": "text", "text": "x", "new": 1})),
            "messages[0].content[0].new",
        ),
        (
            call(json!({"id": "c", "function": {"name": "f", "arguments": "[1]"}})),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            call(json!({"id": "c", "function": {"name": "f", "arguments": "{\"a\":"}})),
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            call(json!({"function": {"name": "f", "arguments": ""}})),
            "messages[0].tool_calls[0].id",
        ),
    ];
    for (fields, field) in cases {
        assert_eq!(refused_chat(fields.clone()), field, "{fields}");
    }
}

#[test]
fn fields_of_messages_that_chats_do_not_have_are_named() {
    let cases = [
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"container": "c"}), "container"),
        (json!({"mcp_servers": [{}]}), "mcp_servers"),
        (json!({"speed": "fast"}), "speed"),
        (json!({"inference_geo": "eu"}), "inference_geo"),
        (json!({"metadata": {"other": 1}}), "metadata.other"),
        (
            json!({"thinking": {"type": "between_tools"}}),
            "thinking.type",
        ),
        (
            json!({"thinking": {"type": "enabled"}}),
            "thinking.budget_tokens",
        ),
        (
            json!({"output_config": {"task_budget": {}}}),
            "output_config.task_budget",
        ),
        (
            json!({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}),
            "context_management.edits[0]",
        ),
        (
            json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
            "tools[0].type",
        ),
        (
            json!({"tools": [{"name": "n", "input_schema": {}, "input_examples": [{}]}]}),
            "tools[0].input_examples",
        ),
        (
            json!({"tools": [{"name": "n", "input_schema": {}, "defer_loading": true}]}),
            "tools[0].defer_loading",
        ),
        (
            json!({"tool_choice": {"type": "tool", "name": "n"}}),
            "tool_choice",
        ),
        (json!({"system": [{"type": "image"}]}), "system[0].type"),
        (json!({"messages": []}), "messages"),
        (
            part(&json!({"type": "image", "source": {"type": "file", "file_id": "f"}})),
            "messages[0].content[0].source.type",
        ),
        (
            part(
                &json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": ""}}),
            ),
            "messages[0].content[0].source.type",
        ),
        (
            part(&json!({"type": "search_result"})),
            "messages[0].content[0].type",
        ),
        (
            part(&json!({"type": "tool_use"})),
            "messages[0].content[0].type",
        ),
        (
            part(
                &json!({"type": "tool_result", "tool_use_id": "t", "content": [{"type": "tool_reference"}]}),
            ),
            "messages[0].content[0].content[0].type",
        ),
        (
            json!({"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]}),
            "messages[0].content[0].type",
        ),
    ];
    for (fields, field) in cases {
        let refused = refused_messages(ChatDialect::Engine, fields.clone());
        assert_eq!(refused, field, "{fields}");
    }
    let cases = [
        (json!({"top_k": 5}), "top_k"),
        (
            json!({"messages": [{"role": "assistant", "content": "The"}]}),
            "messages",
        ),
        (json!({"chat_template_kwargs": {}}), "chat_template_kwargs"),
    ];
    for (fields, field) in cases {
        let refused = refused_messages(ChatDialect::OpenAi, fields.clone());
        assert_eq!(refused, field, "{fields}");
    }
}

#[test]
fn a_refusal_repeats_no_value_and_has_the_shape_of_the_clients_api() {
    let body =
        json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": "a secret"});
    let refusal = chat(&body).expect_err("a refusal");
    let error: Value = serde_json::from_slice(&refusal.for_chat()).expect("JSON");
    assert_eq!(error["error"]["param"], "seed");
    assert_eq!(error["error"]["type"], "invalid_request_error");
    assert!(!error.to_string().contains("secret"));
    let error: Value = serde_json::from_slice(&refusal.for_messages()).expect("JSON");
    assert_eq!(error["type"], "error");
    assert_eq!(error["error"]["type"], "invalid_request_error");
    let long = "x".repeat(10_000);
    let refusal =
        chat(&json!({"model": "m", long: 1, "messages": [{"role": "user", "content": "hi"}]}));
    assert!(refusal.expect_err("a refusal").to_string().len() < 200);
}

#[test]
fn null_is_the_same_as_an_absent_field() {
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi", "name": null}], "seed": null,
        "n": null, "tools": null, "unknown": null, "stream_options": null});
    let made: Value = serde_json::from_slice(&chat(&body).expect("a translation")).expect("JSON");
    let user = json!({"role": "user", "content": "hi"});
    assert_eq!(
        made,
        json!({"model": "m", "max_tokens": 64, "messages": [user]})
    );
}

#[test]
fn members_of_schemas_and_inputs_keep_their_order_and_numbers() {
    let body = r#"{"model":"m","max_tokens":9,"messages":[
        {"role":"user","content":"hi"},
        {"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{"z":1.50,"a":12345678901234567890123}}]},
        {"role":"user","content":[{"type":"tool_result","tool_use_id":"t"}]}],
        "tools":[{"name":"f","input_schema":{"properties":{"z":{},"a":{}}}}]}"#;
    let terms = ChatTerms {
        model: Some("other"),
        dialect: ChatDialect::Engine,
    };
    let made = messages_client::translate_request(body.as_bytes(), &terms).expect("a translation");
    let made = String::from_utf8(made.body).expect("UTF-8");
    assert!(made.starts_with(r#"{"model":"other","messages""#), "{made}");
    assert!(
        made.contains(r#""{\"z\":1.50,\"a\":12345678901234567890123}""#),
        "{made}"
    );
    assert!(
        made.contains(r#"{"properties":{"z":{},"a":{}},"type":"object"}"#),
        "{made}"
    );
}

#[test]
fn late_instructions_are_hoisted_where_models_refuse_them() {
    let body = json!({"model": "m", "messages": [{"role": "system", "content": "a"},
        {"role": "user", "content": "hi"}, {"role": "developer", "content": "b"}, {"role": "user", "content": "ho"}]});
    let terms = MessagesTerms {
        model: None,
        max_tokens: 64,
        late_system: LateSystem::Hoisted,
    };
    let made = chat_client::translate_request(body.to_string().as_bytes(), &terms);
    let made: Value = serde_json::from_slice(&made.expect("a translation").body).expect("JSON");
    let text = |text: &str| json!({"type": "text", "text": text});
    assert_eq!(made["system"], json!([text("a"), text("b")]));
    assert_eq!(
        made["messages"],
        json!([{"role": "user", "content": [text("hi"), text("ho")]}])
    );
}

#[test]
fn arguments_with_half_a_character_are_passed_on() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"},{"role":"assistant","tool_calls":
        [{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\": \"x\ud83d\"}"}}]}]}"#;
    let terms = MessagesTerms {
        model: None,
        max_tokens: 64,
        late_system: LateSystem::InPlace,
    };
    let made = chat_client::translate_request(body.as_bytes(), &terms).expect("a translation");
    let made = String::from_utf8(made.body).expect("UTF-8");
    assert!(made.contains(r#""input":{"a": "x\ud83d"}"#), "{made}");
}
