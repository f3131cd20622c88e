//! The tables of fields in `docs/translation.md` say what the code does.

use std::{collections::BTreeSet, fs};

use hermes_translation::{
    UntranslatableRequest,
    chat_client::{self, LateSystem, MessagesTerms},
    messages_client::{self, ChatDialect, ChatTerms},
};
use serde_json::{Value, json};

/// Parameters of `chat.completions.create` in OpenAI's Python SDK 3.57.
const OF_CHATS: [&str; 37] = [
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "modalities",
    "model",
    "moderation",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
];

/// Parameters of `messages.create` and `beta.messages.create` in Anthropic's Python SDK 2.14, and
/// those of its reference that newer models do not have.
const OF_MESSAGES: [&str; 30] = [
    "betas",
    "billing_policy",
    "cache_control",
    "compaction",
    "container",
    "context_management",
    "diagnostics",
    "fallback_credit_token",
    "fallbacks",
    "inference_geo",
    "max_tokens",
    "mcp_servers",
    "messages",
    "metadata",
    "model",
    "output_config",
    "service_tier",
    "speed",
    "stop_sequences",
    "stream",
    "system",
    "temperature",
    "thinking",
    "thread",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
    "user_profile_id",
    "workspace_id",
];

/// The fields of a table, and whether they are refused.
fn table(heading: &str) -> Vec<(String, bool)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/translation.md");
    let page = fs::read_to_string(path).expect("the page");
    let (_, section) = page.split_once(heading).expect("the section");
    let (_, rows) = section
        .split_once("| Field | Becomes |\n|---|---|\n")
        .expect("a table");
    let mut fields = Vec::new();
    for row in rows.lines().take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let is_refused = cells[1].starts_with("refused");
        for name in cells[0].split('`').skip(1).step_by(2) {
            fields.push((name.to_owned(), is_refused));
        }
    }
    fields
}

fn check(
    heading: &str,
    known: &[&str],
    translate: impl Fn(&str) -> Result<(), UntranslatableRequest>,
) {
    let table = table(heading);
    let listed: BTreeSet<&str> = table.iter().map(|(name, _)| name.as_str()).collect();
    let missing: Vec<_> = known
        .iter()
        .filter(|name| !listed.contains(**name))
        .collect();
    assert!(missing.is_empty(), "{heading} does not list {missing:?}");
    for (name, is_refused) in &table {
        let unknown = match translate(name) {
            Ok(()) => false,
            Err(refusal) => {
                refusal.field() == name && refusal.reason().starts_with("has no equivalent")
            }
        };
        assert_eq!(unknown, *is_refused, "`{name}` below {heading}");
    }
}

/// The body with a value that no field has by default.
fn with(mut body: Value, name: &str) -> Vec<u8> {
    let value = if name.ends_with("penalty") || name == "top_logprobs" {
        json!(1)
    } else {
        json!({"probe": 1})
    };
    body.as_object_mut()
        .expect("an object")
        .insert(name.to_owned(), value);
    body.to_string().into_bytes()
}

#[test]
fn each_field_of_chats_is_documented_as_it_is_translated() {
    let terms = MessagesTerms {
        model: None,
        max_tokens: 64,
        late_system: LateSystem::InPlace,
    };
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    check(
        "## Requests: chat completions to messages",
        &OF_CHATS,
        |name| chat_client::translate_request(&with(body.clone(), name), &terms).map(|_| ()),
    );
}

#[test]
fn each_field_of_messages_is_documented_as_it_is_translated() {
    let terms = ChatTerms {
        model: None,
        dialect: ChatDialect::Engine,
    };
    let message = json!({"role": "user", "content": "hi"});
    let body = json!({"model": "m", "max_tokens": 64, "messages": [message]});
    check(
        "## Requests: messages to chat completions",
        &OF_MESSAGES,
        |name| messages_client::translate_request(&with(body.clone(), name), &terms).map(|_| ()),
    );
}
