//! An answer of a prefill endpoint after which nothing is left to generate, as one that ends with
//! its first token: without what was meant for a decode endpoint, it is the client's answer.

use super::object_fields::ObjectFields;

/// Fields of the answer that are meant for a decode endpoint.
const INTERNAL: &str = "prompt_token_ids";

/// The field of its choice that is.
const INTERNAL_OF_CHOICE: &str = "disaggregated_params";

/// The end of a stream.
const DONE: &str = "data: [DONE]\n\n";

/// See the module.
#[derive(Debug)]
pub(crate) struct FinalAnswer(String);

impl FinalAnswer {
    /// Of an answer whose only choice is this.
    pub(super) fn new(mut answer: ObjectFields<'_>, mut choice: ObjectFields<'_>) -> Self {
        choice.remove(INTERNAL_OF_CHOICE);
        answer.remove(INTERNAL);
        answer.set("choices", format!("[{}]", choice.to_json()));
        Self(answer.to_json())
    }

    /// For a client that asked for a whole answer.
    pub(crate) fn whole(&self) -> String {
        self.0.clone()
    }

    /// For a client that asked for a stream, and perhaps for its usage.
    pub(crate) fn events(&self, includes_usage: bool) -> String {
        let events = self.chunks(includes_usage).unwrap_or_default();
        let events = events.iter().map(|event| format!("data: {event}\n\n"));
        events.chain([DONE.to_owned()]).collect()
    }

    fn chunks(&self, includes_usage: bool) -> Option<Vec<String>> {
        let mut chunk = ObjectFields::parse(&self.0)?;
        let usage = chunk.get("usage").map(str::to_owned);
        chunk.remove("usage");
        if chunk.get("object") == Some("\"chat.completion\"") {
            chunk.set("object", "\"chat.completion.chunk\"");
        }
        let choices: Vec<ObjectFields<'_>> = serde_json::from_str(chunk.get("choices")?).ok()?;
        let choices: Vec<String> = choices.into_iter().map(streamed_choice).collect();
        let choices = format!("[{}]", choices.join(","));
        chunk.set("choices", choices);
        let mut chunks = vec![chunk.to_json()];
        if let Some(usage) = usage.filter(|_| includes_usage) {
            chunk.set("choices", "[]");
            chunk.set("usage", usage);
            chunks.push(chunk.to_json());
        }
        Some(chunks)
    }
}

/// The choice of a chunk: a message becomes the difference to none. Completions have one shape.
fn streamed_choice(mut choice: ObjectFields<'_>) -> String {
    if let Some(message) = choice.get("message").map(str::to_owned) {
        let delta = ObjectFields::parse(&message).map(|mut delta| {
            if let Some(calls) = delta.get("tool_calls").and_then(numbered) {
                delta.set("tool_calls", calls);
            }
            delta.to_json()
        });
        choice.remove("message");
        choice.set("delta", delta.unwrap_or_else(|| "{}".to_owned()));
    }
    choice.to_json()
}

/// The calls of a message as those of a chunk, which have numbers.
fn numbered(calls: &str) -> Option<String> {
    let calls: Vec<ObjectFields<'_>> = serde_json::from_str(calls).ok()?;
    let calls = calls.into_iter().enumerate().map(|(index, mut call)| {
        call.set("index", index.to_string());
        call.to_json()
    });
    Some(format!("[{}]", calls.collect::<Vec<_>>().join(",")))
}
