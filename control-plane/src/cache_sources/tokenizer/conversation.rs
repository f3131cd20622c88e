//! The messages and tools of a request, as an engine hands them to a chat template.
//!
//! Clients write messages in several ways, and templates are written for one. vLLM puts them in
//! order before it renders them, and so does this, in the same way: content becomes text or a list
//! of parts, arguments of tool calls become objects, tools get all their fields, and what a
//! template has no business with is dropped.

use minijinja::{Value, value::ValueKind};

use super::{ContentFormat, Failure};

/// Reads raw JSON, keeping the order of keys: templates print tools.
pub(super) fn json(raw: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(raw).map_err(|_| Failure::Malformed)
}

/// The messages for the template.
pub(super) fn messages(raw: &Value, format: ContentFormat) -> Result<Vec<Value>, Failure> {
    items(raw)?
        .iter()
        .map(|message| self::message(message, format))
        .collect()
}

/// The tools for the template: each field of a function is there, even when the client left it out.
pub(super) fn tools(raw: &Value) -> Result<Value, Failure> {
    let tools = items(raw)?
        .into_iter()
        .map(|tool| -> Result<Value, Failure> {
            let function = attribute(&tool, "function").ok_or(Failure::Malformed)?;
            let name = attribute(&function, "name")
                .filter(is_text)
                .ok_or(Failure::Malformed)?;
            let mut fields = vec![("name", name)];
            fields.extend(
                ["description", "parameters"]
                    .map(|key| (key, attribute(&function, key).unwrap_or_else(none))),
            );
            let optional = ["strict", "defer_loading"]
                .map(|key| attribute(&function, key).map(|value| (key, value)));
            fields.extend(optional.into_iter().flatten());
            Ok(map([
                ("type", Value::from("function")),
                ("function", map(fields)),
            ]))
        });
    Ok(Value::from(tools.collect::<Result<Vec<_>, _>>()?))
}

fn message(raw: &Value, format: ContentFormat) -> Result<Value, Failure> {
    let role = attribute(raw, "role")
        .filter(is_text)
        .ok_or(Failure::Malformed)?;
    let role = role.as_str().unwrap_or_default();
    let mut fields = vec![
        ("role", Value::from(role)),
        ("content", content(raw, role, format)?),
    ];
    match role {
        "assistant" => {
            let calls = attribute(raw, "tool_calls")
                .map(|calls| tool_calls(&calls))
                .transpose()?;
            fields.extend(calls.flatten().map(|calls| ("tool_calls", calls)));
            let reasoning =
                attribute(raw, "reasoning").or_else(|| attribute(raw, "reasoning_content"));
            if let Some(reasoning) = reasoning {
                // Templates know it by any of these names.
                let names = ["reasoning", "reasoning_content", "thinking"];
                fields.extend(names.map(|name| (name, reasoning.clone())));
            }
        }
        "tool" => fields.extend(attribute(raw, "tool_call_id").map(|id| ("tool_call_id", id))),
        "developer" => fields.extend(attribute(raw, "tools").map(|tools| ("tools", tools))),
        _ => {}
    }
    fields.extend(
        attribute(raw, "name")
            .filter(is_text)
            .map(|name| ("name", name)),
    );
    Ok(map(fields))
}

/// The content of a message. That of a tool's answer is text for every template.
fn content(raw: &Value, role: &str, format: ContentFormat) -> Result<Value, Failure> {
    let texts = match attribute(raw, "content") {
        None => Vec::new(),
        Some(text) if is_text(&text) => vec![text],
        Some(parts) => {
            let parts = items(&parts)?;
            parts
                .iter()
                .filter_map(|part| part_text(part).transpose())
                .collect::<Result<_, _>>()?
        }
    };
    if format == ContentFormat::Parts && role != "tool" {
        let part = |text| map([("type", Value::from("text")), ("text", text)]);
        return Ok(Value::from(texts.into_iter().map(part).collect::<Vec<_>>()));
    }
    if let [text] = &texts[..] {
        return Ok(text.clone());
    }
    let keeps_empty = format == ContentFormat::Parts;
    let texts: Vec<&str> = texts
        .iter()
        .filter_map(Value::as_str)
        .filter(|text| keeps_empty || !text.is_empty())
        .collect();
    Ok(Value::from(texts.join("\n")))
}

/// The text of a part. One without text is left out, and one that is no text needs the engine.
fn part_text(part: &Value) -> Result<Option<Value>, Failure> {
    if is_text(part) {
        return Ok(Some(part.clone()));
    }
    let kind = attribute(part, "type").ok_or(Failure::Unsupported)?;
    let key = match kind.as_str() {
        Some("text" | "input_text" | "output_text") => "text",
        Some("refusal") => "refusal",
        Some("thinking") => "thinking",
        _ => return Err(Failure::Unsupported),
    };
    match attribute(part, key) {
        Some(text) if is_text(&text) => Ok(Some(text)),
        Some(_) => Err(Failure::Malformed),
        None => Ok(None),
    }
}

/// The calls with their arguments as objects; none when the list is empty.
fn tool_calls(raw: &Value) -> Result<Option<Value>, Failure> {
    let calls = items(raw)?.into_iter().map(|call| {
        let is_function =
            attribute(&call, "type").is_none_or(|kind| kind.as_str() == Some("function"));
        let function = attribute(&call, "function")
            .filter(|function| is_function && function.kind() == ValueKind::Map);
        let function = function.ok_or(Failure::Malformed)?;
        let arguments = arguments(attribute(&function, "arguments"));
        with(&call, "function", with(&function, "arguments", arguments)?)
    });
    let calls: Vec<Value> = calls.collect::<Result<_, Failure>>()?;
    Ok(if calls.is_empty() {
        None
    } else {
        Some(Value::from(calls))
    })
}

/// Arguments come as JSON in a string. What is no object becomes an empty one: it is history that
/// cannot be corrected.
fn arguments(raw: Option<Value>) -> Value {
    let parsed = raw.and_then(|raw| match raw.as_str() {
        Some(text) => serde_json::from_str(text).ok(),
        None => Some(raw),
    });
    parsed
        .filter(|value: &Value| value.kind() == ValueKind::Map)
        .unwrap_or_else(|| map([] as [(&str, Value); 0]))
}

// === Values ===

/// A map, in this order.
pub(super) fn map<'a>(fields: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
    Value::from_pairs(fields)
}

/// `map` with `key` set to `value`, in its place or at the end.
pub(super) fn with(map: &Value, key: &str, value: Value) -> Result<Value, Failure> {
    let mut value = Some(value);
    let mut fields: Vec<(Value, Value)> = Vec::new();
    for known in map.try_iter().map_err(|_| Failure::Malformed)? {
        let is_it = known.as_str() == Some(key);
        let held = if is_it {
            value.take()
        } else {
            map.get_item(&known).ok()
        };
        fields.extend(held.map(|held| (known, held)));
    }
    fields.extend(value.map(|value| (Value::from(key), value)));
    Ok(Value::from_pairs(fields))
}

/// What stands under `key`, unless it is null.
pub(super) fn attribute(value: &Value, key: &str) -> Option<Value> {
    if value.kind() != ValueKind::Map {
        return None;
    }
    value
        .get_attr(key)
        .ok()
        .filter(|found| !found.is_undefined() && !found.is_none())
}

/// The items of a list.
pub(super) fn items(value: &Value) -> Result<Vec<Value>, Failure> {
    if value.kind() != ValueKind::Seq {
        return Err(Failure::Malformed);
    }
    Ok(value.try_iter().map_err(|_| Failure::Malformed)?.collect())
}

fn is_text(value: &Value) -> bool {
    value.kind() == ValueKind::String
}

fn none() -> Value {
    Value::from(())
}

#[cfg(test)]
mod tests;
