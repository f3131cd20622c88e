//! Why an answer ended.

use crate::json_string::JsonString;

/// What an answer has that its end depends on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AnswerParts {
    /// A tool was called, and all calls are complete.
    pub(super) has_calls: bool,
    /// The model refused to answer.
    pub(super) is_refused: bool,
}

/// `stop_reason` of an answer with this `finish_reason`. `None` for one that is no end, such as
/// vLLM's `abort`.
pub(super) fn stop_reason(
    finish_reason: JsonString<'_>,
    has_stop_sequence: bool,
    parts: AnswerParts,
) -> Option<&'static str> {
    match finish_reason.text().as_deref() {
        Some("length") => Some("max_tokens"),
        Some("content_filter") => Some("refusal"),
        // A server may report the end of a forced call as `stop`.
        Some("stop" | "tool_calls" | "function_call") if parts.has_calls => Some("tool_use"),
        Some("stop") if parts.is_refused => Some("refusal"),
        Some("stop" | "tool_calls" | "function_call") if has_stop_sequence => Some("stop_sequence"),
        Some("stop" | "tool_calls" | "function_call") => Some("end_turn"),
        _ => None,
    }
}

/// Whether an answer that ended so was cut off by nothing but a stop sequence.
pub(super) fn is_whole(finish_reason: JsonString<'_>) -> bool {
    let reason = finish_reason.text();
    matches!(
        reason.as_deref(),
        Some("stop" | "tool_calls" | "function_call")
    )
}
