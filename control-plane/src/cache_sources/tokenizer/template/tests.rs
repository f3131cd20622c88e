use bytes::Bytes;
use serde_json::json;

use super::*;

/// In the style of Llama 3: tools before the first message, trimmed content, a date, and refusals.
const LLAMA: &str = r#"{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\n\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"#;

/// In the style of models that see: content is a list of parts, and answers are marked for
/// training.
const PARTS: &str = "{% for message in messages %}
{{ message.role }}:
{%- for part in message.content %}
{% if part.type == 'text' %}[{{ part.text }}]{% endif %}
{% endfor %}
{%- if message.role == 'assistant' %}{%- generation -%} done {%- endgeneration -%}{% endif %}

{% endfor %}";

fn compile(source: &str) -> ChatTemplate {
    let known = vec![
        ("bos_token".to_owned(), Value::from("<s>")),
        ("date_string".to_owned(), Value::from("26 Jul 2024")),
    ];
    let source = TemplateSource {
        default: source.to_owned(),
        tool_use: None,
    };
    ChatTemplate::compile(source, None, known).expect("a good template")
}

fn chat(messages: &serde_json::Value) -> Chat {
    Chat {
        messages: messages.to_string().into(),
        generates: true,
        ..Chat::default()
    }
}

#[test]
fn a_conversation_with_tools_is_rendered_in_the_style_of_llama() {
    let tools =
        r#"[{"type":"function","function":{"name":"f","parameters":{"type":"object","a":[]}}}]"#;
    let arguments = r#"{"city":"Köln"}"#;
    let asked = Chat {
        tools: Some(Bytes::from_static(tools.as_bytes())),
        ..chat(&json!([
            {"role": "system", "content": "  be kind "},
            {"role": "user", "content": "weather?\n"},
            {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}]},
            {"role": "tool", "tool_call_id": "1", "content": "sun"},
        ]))
    };
    let expected = "<s><|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\nToday Date: 26 Jul 2024\n\n\
        {\n    \"type\": \"function\",\n    \"function\": {\n        \"name\": \"f\",\n        \"description\": null,\n        \
        \"parameters\": {\n            \"type\": \"object\",\n            \"a\": []\n        }\n    }\n}\n\n\
        be kind<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nweather?<|eot_id|>\
        <|start_header_id|>assistant<|end_header_id|>\n\n{\"name\": \"f\", \"parameters\": {\"city\": \"Köln\"}}<|eot_id|>\
        <|start_header_id|>ipython<|end_header_id|>\n\nsun<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";
    assert_eq!(compile(LLAMA).render(&asked).expect("rendered"), expected);
}

#[test]
fn a_template_that_wants_parts_gets_parts_and_lines_are_trimmed_as_in_transformers() {
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]);
    assert_eq!(
        compile(PARTS).render(&chat(&messages)).expect("rendered"),
        "user:[a]\nassistant:[b]done\n"
    );
}

#[test]
fn a_last_message_that_goes_on_has_no_end() {
    let asked = Chat {
        generates: false,
        continues: true,
        ..chat(
            &json!([{"role": "user", "content": "count"}, {"role": "assistant", "content": "one, two "}]),
        )
    };
    let keeps = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}";
    assert_eq!(
        compile(keeps).render(&asked).expect("rendered"),
        "<user>count</><assistant>one, two "
    );
    let trims = keeps.replace("m.content", "m.content | trim");
    assert_eq!(
        compile(&trims).render(&asked).expect("rendered"),
        "<user>count</><assistant>one, two"
    );
    let parts = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}</>{% endfor %}";
    assert_eq!(
        compile(parts).render(&asked).expect("rendered"),
        "<user>count</><assistant>one, two "
    );
    assert_eq!(
        compile(keeps).render(&Chat {
            generates: true,
            ..asked
        }),
        Err(Failure::Malformed),
        "engines refuse both"
    );
}

#[test]
fn of_equal_names_that_of_the_request_counts() {
    let template = compile("{{ date_string }} {{ enable_thinking }} {{ messages | length }}");
    let kwargs = br#"{"date_string":"now","enable_thinking":false,"messages":"none"}"#;
    let asked = Chat {
        template_kwargs: Some(Bytes::from_static(kwargs)),
        ..chat(&json!([]))
    };
    assert_eq!(template.render(&asked).expect("rendered"), "now False 0");
    assert_eq!(
        template.render(&chat(&json!([]))).expect("rendered"),
        "26 Jul 2024  0"
    );
}

#[test]
fn requests_with_tools_get_the_template_for_tools() {
    let source = TemplateSource {
        default: "plain".into(),
        tool_use: Some("tools".into()),
    };
    let template = ChatTemplate::compile(source, None, Vec::new()).expect("two templates");
    let asked = chat(&json!([]));
    assert_eq!(template.render(&asked).expect("rendered"), "plain");
    let with_tools = Chat {
        tools: Some(Bytes::from_static(b"[]")),
        ..asked
    };
    assert_eq!(template.render(&with_tools).expect("rendered"), "tools");
}

#[test]
fn a_refusal_and_a_rendering_without_an_end_are_errors() {
    let refuses = compile("{{ raise_exception('no: ' + messages[0].content) }}");
    assert_eq!(
        refuses.render(&chat(&json!([{"role": "user", "content": "secret"}]))),
        Err(Failure::Template)
    );
    let endless = compile(
        "{% for a in range(10000) %}{% for b in range(10000) %}{{ a * b }}{% endfor %}{% endfor %}",
    );
    assert_eq!(endless.render(&chat(&json!([]))), Err(Failure::Template));
}

#[test]
fn the_steps_of_a_rendering_grow_with_its_conversation() {
    let template = compile(
        "{% for i in range(1000) %}{% for j in range(300) %}{{ i }}{% endfor %}{% endfor %}",
    );
    let of = |length: usize| {
        let content = "x".repeat(length);
        template.render(&chat(&json!([{"role": "user", "content": content}])))
    };
    assert_eq!(of(10).err(), Some(Failure::Template));
    assert!(of(1 << 20).is_ok());
}

#[test]
fn a_template_that_gathers_its_text_in_a_variable_renders_long_conversations() {
    let template = compile(
        "{% set ns = namespace(text='') %}{% for m in messages %}{% set ns.text = ns.text + m.role + m.content %}{% endfor %}{{ ns.text }}",
    );
    let message = json!({"role": "user", "content": "x".repeat(1_000)});
    let text = template.render(&chat(&json!(vec![message; 500])));
    assert_eq!(text.map(|text| text.len()), Ok(500 * 1_004));
}

#[test]
fn only_a_template_that_prints_the_date_reads_the_clock() {
    assert!(compile(LLAMA).reads_clock());
    assert!(!compile(PARTS).reads_clock());
}
