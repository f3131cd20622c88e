//! A request that computes a prompt and generates one token, which is not used.
//!
//! What the client limits its answer by becomes 1, by the name that its API has for it. A stream is
//! not asked for: vLLM states the parameters of a handoff in whole answers only. `min_tokens` above
//! the limit, and options of a stream that is none, are refused by vLLM, so that they are cut out.

use crate::request::{api::Api, body_edit::BodyEdit};

/// The edits that make it one.
pub(super) fn edits(api: Api) -> Vec<BodyEdit> {
    let limit = match api {
        Api::Responses => "max_output_tokens",
        _ => "max_tokens",
    };
    vec![
        BodyEdit::set("stream", "false"),
        BodyEdit::Remove("stream_options"),
        BodyEdit::Remove("min_tokens"),
        BodyEdit::set(limit, "1"),
        BodyEdit::replace("max_completion_tokens", "1"),
    ]
}
